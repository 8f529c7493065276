// SPDX-License-Identifier: Apache-2.0
#include "trainer/checkpoint/huggingface.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/log.h"
#include "trainer/commands/commands.h"
#include "trainer/config/user_path.h"
#include "trainer/exit_code.h"

namespace stipple::trainer {
namespace {

namespace fs = std::filesystem;

constexpr const char* kVocabulary = "vocab.txt";
constexpr const char* kTokenizer = "tokenizer_config.json";

int64_t numel_of(const HuggingFaceModel& model) {
  int64_t numel = 0;
  for (const NewTensor& tensor : model.tensors) numel += tensor.shape.numel();
  return numel;
}

void require_word_per_row(const std::string& path, const HuggingFaceModel& model) {
  const std::string text = read_text(path, int64_t{1} << 28);
  const auto ends = std::count(text.begin(), text.end(), '\n');
  const int64_t words = ends + (text.empty() || text.back() == '\n' ? 0 : 1);
  for (const NewTensor& tensor : model.tensors)
    if (tensor.name == "embedding.tokens")
      STIPPLE_CHECK_AS(ConfigError, words <= tensor.shape[0], path, ": has ", words,
                       " lines, and the model has vectors of ", tensor.shape[0], " tokens");
}

std::string told(const std::string& what, const HuggingFaceModel& model, const std::string& out) {
  return fmt::format("{} {}, {} tensors of {} numbers, to {}", what, model.architecture,
                     model.tensors.size(), numel_of(model), out);
}

}  // namespace

int import_huggingface(const std::string& folder, const std::string& out) {
  const std::string from = expand_path(folder, "folder"), to = expand_path(out, "--out");
  require_new_folder(to);
  const HuggingFaceModel model = read_huggingface(from);
  FilesBeside beside;
  for (const char* name : {kVocabulary, kTokenizer}) {
    const std::string path = (fs::path(from) / name).string();
    if (path_exists(path)) beside[name] = path;
  }
  if (beside.contains(kVocabulary)) {
    require_word_per_row(beside[kVocabulary], model);
  } else {
    log::warn(from + " has no vocab.txt: nothing will tell how texts were cut for this model");
  }
  write_imported(to, model.config, model.tensors, model.architecture, beside);
  for (const std::string& note : model.notes) log::info(note);
  log::info(told("imported", model, to));
  return kDone;
}

int export_huggingface(const std::string& path, const ExportOptions& options) {
  const std::string to = expand_path(options.out, "--out");
  require_new_folder(to);
  const StoredModel from(expand_path(path, "model"));
  const HuggingFaceModel model = to_huggingface(from, options.labels);
  FilesBeside beside;
  for (const char* name : {kVocabulary, kTokenizer})
    if (const std::string file = from.file_beside(name); !file.empty()) beside[name] = file;
  const std::string& of_run = from.config().data.vocab;
  if (!from.is_imported() && path_exists(of_run)) beside[kVocabulary] = of_run;
  if (!options.vocabulary.empty()) beside[kVocabulary] = expand_path(options.vocabulary, "--vocab");
  if (beside.contains(kVocabulary)) {
    require_word_per_row(beside[kVocabulary], model);
  } else {
    log::warn("no vocab.txt is written: give it by --vocab, or a tokenizer will be missing there");
  }
  write_huggingface(to, model, beside);
  log::info(told("exported", model, to));
  return kDone;
}

}  // namespace stipple::trainer
