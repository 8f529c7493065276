// SPDX-License-Identifier: Apache-2.0
// From plain text to what masked language models read: a vocabulary, and shards of token ids.
#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <string>

#include "core/error.h"
#include "core/log.h"
#include "core/stopwatch.h"
#include "data/output_file.h"
#include "data/shards/shard.h"
#include "trainer/commands/commands.h"
#include "trainer/config/user_path.h"
#include "trainer/exit_code.h"

namespace stipple::trainer {
namespace {

namespace shards = data::shards;
namespace wordpiece = data::wordpiece;

std::vector<std::string> expanded(const std::vector<std::string>& files) {
  std::vector<std::string> paths;
  for (const std::string& file : files) paths.push_back(expand_path(file, "FILES"));
  return paths;
}

void show_bytes(int64_t done, int64_t total) {
  log::progress(fmt::format("{:.0f} of {:.0f} MB", static_cast<double>(done) * 1e-6,
                            static_cast<double>(total) * 1e-6));
}

/// Without what does not change the files, so that equal texts give equal bytes.
std::string command_of(const TokenizeArguments& a) {
  const char* rules[] = {"blank-line", "line", "file"};
  return fmt::format(
      "stipple data tokenize --vocab {} --profile {} {}--max-word-length {} "
      "--documents {} {}--out {} {}",
      a.vocabulary, wordpiece::profile_name(a.tokenizer.profile),
      a.tokenizer.lower_case ? "" : "--cased ", a.tokenizer.max_word_length,
      rules[static_cast<size_t>(a.options.documents)], a.options.sentences ? "--sentences " : "",
      a.out, a.files.size() == 1 ? a.files.front() : fmt::format("({} files)", a.files.size()));
}

/// What somebody should know of the text; documents of a few tokens mean that the rule is wrong.
void warn_of(const shards::TokenizeCounts& counts) {
  constexpr double kShortDocument = 16, kManyUnknown = 0.05;
  const auto tokens = static_cast<double>(counts.tokens);
  if (counts.empty_files > 0)
    log::warn(fmt::format("{} of {} files are empty", counts.empty_files, counts.files));
  if (counts.empty_documents > 0)
    log::warn(fmt::format("{} documents without a token are left out", counts.empty_documents));
  if (tokens < kShortDocument * static_cast<double>(counts.documents)) {
    log::warn(
        fmt::format("documents are short, {:.1f} tokens on average; --documents says where "
                    "they end",
                    tokens / static_cast<double>(counts.documents)));
  }
  if (static_cast<double>(counts.unknown) > kManyUnknown * tokens) {
    log::warn(
        fmt::format("{:.1f} % of the tokens are [UNK]; is the vocabulary one of this "
                    "language, and is --cased as it should be?",
                    100 * static_cast<double>(counts.unknown) / tokens));
  }
}

}  // namespace

int data_vocab(const VocabularyOptions& options) {
  const std::string out = expand_path(options.out, "--out");
  STIPPLE_CHECK_AS(DataError, options.replace || !std::filesystem::exists(out), out,
                   " exists already; choose another --out, or --force to replace");
  data::OutputFile file(out);  // before the work: a place that cannot be written is told at once
  Stopwatch watch;
  const wordpiece::WordCounts words = wordpiece::count_words(
      expanded(options.files), options.splitting, options.threads, show_bytes);
  STIPPLE_CHECK_AS(DataError, !words.empty(), "there is no word in ", options.files.size(),
                   options.files.size() == 1 ? " file" : " files");
  const wordpiece::Vocabulary vocabulary(wordpiece::train_vocabulary(words, options.training), out);
  file.append(vocabulary.text());
  file.finish();
  file.publish();
  if (vocabulary.size() < options.training.size) {
    log::warn(fmt::format("the text gives {} tokens and no more at --min-frequency {}",
                          vocabulary.size(), options.training.min_frequency));
  }
  log::info(fmt::format("wrote {} tokens of {} different words to {} in {:.1f} s",
                        vocabulary.size(), words.size(), out, watch.lap()));
  return kDone;
}

int data_tokenize(const TokenizeArguments& arguments) {
  const std::string out = expand_path(arguments.out, "--out");
  const wordpiece::WordPiece tokenizer(
      wordpiece::Vocabulary::read(expand_path(arguments.vocabulary, "--vocab")),
      arguments.tokenizer);
  shards::TokenizeOptions options = arguments.options;
  options.command = command_of(arguments);
  Stopwatch watch;
  const shards::TokenizeCounts counts =
      shards::tokenize(tokenizer, expanded(arguments.files), out, options, show_bytes);
  warn_of(counts);
  const double seconds = watch.lap();
  log::info(
      fmt::format("wrote {} tokens of {} documents{} to {}.bin, .idx and .meta.json in {:.1f} s "
                  "({:.1f} MB/s, {:.2f} % [UNK])",
                  counts.tokens, counts.documents,
                  options.sentences ? fmt::format(", {} sentences,", counts.sequences) : "", out,
                  seconds, static_cast<double>(counts.text_bytes) * 1e-6 / seconds,
                  100 * static_cast<double>(counts.unknown) / static_cast<double>(counts.tokens)));
  return kDone;
}

int data_verify(const std::string& prefix, const std::string& vocabulary) {
  const shards::Shard shard(expand_path(prefix, "PREFIX"));
  if (!vocabulary.empty()) {
    shard.require_vocabulary(wordpiece::Vocabulary::read(expand_path(vocabulary, "--vocab")));
  }
  const int64_t blocks = shard.verify();
  fmt::print("documents    {}\nsequences    {}\ntokens       {}\n", shard.num_documents(),
             shard.num_sequences(), shard.num_tokens());
  if (const auto& meta = shard.meta()) {
    fmt::print("vocabulary   {} ({} tokens)\ntokenizer    wordpiece, profile {}, {}\n",
               meta->vocabulary_hash, meta->vocabulary_size,
               wordpiece::profile_name(meta->tokenizer.profile),
               meta->tokenizer.lower_case ? "lower case" : "cased");
    fmt::print("blocks       {} of 16 MiB as they were written\n", blocks);
  } else {
    fmt::print(
        "blocks       no meta.json: sizes agree, but nothing tells whether tokens changed\n");
  }
  return kDone;
}

}  // namespace stipple::trainer
