// SPDX-License-Identifier: Apache-2.0
#include "trainer/checkpoint/stored_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "core/log.h"
#include "data/wordpiece/vocabulary.h"
#include "trainer/checkpoint/content_hash.h"
#include "trainer/checkpoint/load.h"
#include "trainer/checkpoint/new_folder.h"
#include "trainer/checkpoint/step_directory.h"

namespace stipple::trainer {
namespace {

namespace fs = std::filesystem;

constexpr const char* kModelFile = "model.safetensors";
constexpr const char* kModelConfigFile = "model.yaml";
constexpr const char* kFormatKey = "stipple_model";
constexpr const char* kFormat = "1";
constexpr const char* kHashKey = "xxh3";
constexpr const char* kArchitectureKey = "architecture";
constexpr std::string_view kParameterKind = "parameter/";

/// Over names, and values as they lie in memory, in ascending order of names.
class TensorsHash {
 public:
  void add(std::string_view name, std::span<const float> values) {
    hasher_.update(name);
    hasher_.update(std::as_bytes(values));
  }
  std::string hex() const { return hasher_.hex(); }

 private:
  ContentHasher hasher_;
};

std::string model_yaml(model::ModelConfig config) {
  return config_to_yaml([&](ConfigVisitor& v) { v.section("model", config, ""); });
}

std::string joined_path(const std::string& folder, const char* name) {
  return (fs::path(folder) / name).string();
}

void sort_by_name(std::vector<StoredTensor>& tensors) {
  std::sort(tensors.begin(), tensors.end(),
            [](const StoredTensor& a, const StoredTensor& b) { return a.name < b.name; });
}

}  // namespace

StoredModel::StoredModel(const std::string& path) : path_(path) {
  if (path_exists(joined_path(path, kModelConfigFile))) {
    open_imported();
  } else {
    open_checkpoint();
  }
  sort_by_name(tensors_);
}

void StoredModel::open_imported() {
  const std::string yaml = joined_path(path_, kModelConfigFile);
  load_config({yaml}, {}, [&](ConfigVisitor& v) { config_.describe(v); });
  config_.attention.kind = model::AttentionKind::kSoftmax;
  file_.emplace(joined_path(path_, kModelFile));
  const auto& metadata = file_->metadata();
  const auto format = metadata.find(kFormatKey);
  STIPPLE_CHECK_AS(ConfigError, format != metadata.end() && format->second == kFormat,
                   file_->path(),
                   " was not written by `stipple import` of this version; import "
                   "the model again");
  for (const auto& entry : file_->entries()) tensors_.push_back({entry.name, entry.shape});
  sort_by_name(tensors_);
  TensorsHash hash;
  for (const StoredTensor& tensor : tensors_) hash.add(tensor.name, read(tensor));
  const auto known = metadata.find(kHashKey);
  STIPPLE_CHECK_AS(DataError, known != metadata.end() && known->second == hash.hex(), file_->path(),
                   " is damaged: its tensors are not those that were written; import "
                   "the model again");
}

void StoredModel::open_checkpoint() {
  const std::vector<std::string> candidates = list_checkpoints(path_);
  STIPPLE_CHECK_AS(ConfigError, !candidates.empty(), path_,
                   " holds no model: it is neither a run with a checkpoint, nor a checkpoint, nor "
                   "what `stipple import` writes");
  for (const std::string& directory : candidates) {
    const std::string reason = reason_against(directory);
    if (!reason.empty()) {
      log::warn(fmt::format("checkpoint {} skipped: {}", directory, reason));
      continue;
    }
    path_ = directory;
    manifest_ = read_manifest(directory);
    load_config_text(manifest_.meta.config_yaml, directory + ": its configuration",
                     [&](ConfigVisitor& v) { config_.describe(v); });
    std::set<std::string> seen;
    for (const ManifestTensor& tensor : manifest_.tensors) {
      if (!tensor.name.starts_with(kParameterKind) || !seen.insert(tensor.name).second) continue;
      tensors_.push_back({tensor.name.substr(kParameterKind.size()), tensor.shape});
    }
    return;
  }
  throw DataError(fmt::format("none of the {} checkpoints in {} is intact (see the warnings above)",
                              candidates.size(), path_));
}

std::string StoredModel::architecture() const {
  if (!file_) return {};
  const auto found = file_->metadata().find(kArchitectureKey);
  return found == file_->metadata().end() ? std::string() : found->second;
}

std::string StoredModel::vocabulary() const {
  if (!file_) return manifest_.meta.vocabulary;
  const std::string path = file_beside("vocab.txt");
  return path.empty() ? std::string() : data::wordpiece::Vocabulary::read(path).hash();
}

const StoredTensor* StoredModel::find(std::string_view name) const {
  const auto found = std::ranges::lower_bound(
      tensors_, name, {}, [](const auto& t) { return std::string_view(t.name); });
  return found != tensors_.end() && found->name == name ? &*found : nullptr;
}

std::vector<float> StoredModel::read(const StoredTensor& tensor) const {
  if (file_) return file_->floats(*file_->find(tensor.name));
  std::vector<float> values(static_cast<size_t>(tensor.shape.numel()));
  const std::string name = std::string(kParameterKind) + tensor.name;
  for (const ManifestTensor& piece : manifest_.tensors) {
    if (piece.name != name) continue;
    const SafetensorsFile shard(path_ + "/" + piece.file);
    const auto* entry = shard.find(name);
    STIPPLE_CHECK_AS(CheckpointError, entry, shard.path(), ": tensor '", name, "' is missing");
    const auto part = std::as_writable_bytes(std::span(values).subspan(
        static_cast<size_t>(piece.elements.begin), static_cast<size_t>(piece.elements.size())));
    shard.read(*entry, part);
    STIPPLE_CHECK_AS(CheckpointError, content_hash(part) == piece.hash, shard.path(), ": tensor '",
                     name, "' hash mismatch");
  }
  return values;
}

std::string StoredModel::file_beside(const std::string& name) const {
  if (!file_) return {};
  const std::string path = joined_path(path_, name.c_str());
  return path_exists(path) ? path : std::string();
}

void write_tensors(const std::string& path, const std::vector<NewTensor>& tensors,
                   const TensorMetadata& metadata) {
  std::vector<TensorSource> sources;
  for (const NewTensor& tensor : tensors)
    sources.push_back({.name = tensor.name,
                       .shape = tensor.shape,
                       .bytes = std::as_bytes(std::span(tensor.values))});
  const std::string header = safetensors_header(sources, metadata);
  DurableFile file(path);
  file.write(std::as_bytes(std::span(header)));
  for (const TensorSource& source : sources) file.write(source.bytes);
  file.close();
}

void write_imported(const std::string& folder, const model::ModelConfig& config,
                    const std::vector<NewTensor>& tensors, const std::string& architecture,
                    const FilesBeside& beside) {
  TensorsHash hash;
  std::vector<const NewTensor*> by_name;
  for (const NewTensor& tensor : tensors) by_name.push_back(&tensor);
  std::ranges::sort(by_name, {}, [](const NewTensor* t) { return std::string_view(t->name); });
  for (const NewTensor* tensor : by_name) hash.add(tensor->name, tensor->values);
  write_new_folder(folder, [&](const std::string& temporary) {
    write_tensors(
        joined_path(temporary, kModelFile), tensors,
        {{kFormatKey, kFormat}, {kHashKey, hash.hex()}, {kArchitectureKey, architecture}});
    write_durably(joined_path(temporary, kModelConfigFile), model_yaml(config));
    copy_into(temporary, beside);
  });
}

}  // namespace stipple::trainer
