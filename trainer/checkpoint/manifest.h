// SPDX-License-Identifier: Apache-2.0
// The table of contents of one checkpoint directory:
//
//   step-00000400/
//     shard-00000-of-00002.safetensors   whole tensors, dealt to the ranks that wrote them
//     shard-00001-of-00002.safetensors
//     manifest.json                      what is where, with a hash of every file and every tensor
//     manifest.xxh3                      the hash of manifest.json, as `xxhsum -H2 -c` reads it
//
// A directory is good when every hash holds; nothing here trusts a file before that. All failures
// are CheckpointError.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/shape.h"

namespace stipple::trainer {

inline constexpr const char* kManifestName = "manifest.json";
inline constexpr const char* kManifestHashName = "manifest.xxh3";

/// Where a run stands, besides its tensors.
struct CheckpointMeta {
  int64_t step = 0;                  ///< steps done, skipped ones included
  int64_t data_position = 0;         ///< examples consumed since the start of the run
  int64_t applied_steps = 0;         ///< steps the optimizer really took
  uint64_t dataset_fingerprint = 0;  ///< of the training examples
  /// Of the validation examples; none in checkpoints written before it was kept.
  std::optional<uint64_t> validation_fingerprint = {};
  std::vector<double> extra = {};  ///< state of small components, bit-exact
  std::string config_yaml = {};    ///< the resolved configuration

  bool operator==(const CheckpointMeta&) const = default;
};

struct ManifestTensor {
  std::string name = {};
  Shape shape = {};
  std::string file = {};
  std::string hash = {};  ///< of the bytes in memory, before they were written
};

struct ManifestFile {
  std::string name = {};
  int64_t bytes = 0;
  std::string hash = {};
};

struct Manifest {
  CheckpointMeta meta = {};
  std::string created_by = {};
  int64_t world_size = 0;
  std::vector<ManifestTensor> tensors = {};  ///< by ascending name
  std::vector<ManifestFile> files = {};      ///< by ascending name
};

std::string manifest_to_json(const Manifest&);
/// `where` names the source in errors.
Manifest manifest_from_json(const std::string& text, const std::string& where);
/// What manifest.xxh3 must hold for this manifest.json.
std::string manifest_hash_line(const std::string& json);

/// manifest.json of a checkpoint directory, once its hash and structure hold. Errors do not repeat
/// the directory's name.
Manifest read_manifest(const std::string& directory);

/// Reads every file and compares sizes and hashes. One line for each thing that is wrong, with the
/// tensor and the byte range in its file where that can be told; none for a good checkpoint.
std::vector<std::string> find_faults(const std::string& directory, const Manifest&);

}  // namespace stipple::trainer
