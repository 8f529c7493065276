// SPDX-License-Identifier: Apache-2.0
// The table of contents of one checkpoint directory:
//
//   step-00000400/
//     shard-00000-of-00002.safetensors   tensors, whole or the elements that one rank owned
//     shard-00001-of-00002.safetensors
//     manifest.json                      what is where, with a hash of every file and every tensor,
//                                        and the scalars of the run by name
//     manifest.xxh3                      the hash of manifest.json, as `xxhsum -H2 -c` reads it
//
// A directory is good when every hash holds; nothing here trusts a file before that. All failures
// are CheckpointError, but for VersionError.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/range.h"
#include "core/shape.h"
#include "trainer/checkpoint/scalars.h"

namespace stipple::trainer {

inline constexpr const char* kManifestName = "manifest.json";
inline constexpr const char* kManifestHashName = "manifest.xxh3";

/// Counts that every checkpoint has.
inline constexpr std::string_view kDataPosition = "data_position";  // examples since the start
inline constexpr std::string_view kAppliedSteps =
    "applied_steps";  // that the optimizer really took

/// A format version that this program does not read: the checkpoint is no worse for it, so nothing
/// may go on as if it were damaged.
class VersionError : public ConfigError {
 public:
  using ConfigError::ConfigError;
};

/// Where a run stands, besides its tensors.
struct CheckpointMeta {
  int64_t step = 0;                  ///< steps done, skipped ones included
  uint64_t dataset_fingerprint = 0;  ///< of the training examples
  /// Of the validation examples; none in checkpoints written before it was kept.
  std::optional<uint64_t> validation_fingerprint = {};
  /// TaskInfo's: what the numbers of tokens and of classes mean. Empty, too, in checkpoints written
  /// before they were kept.
  std::string vocabulary = {};
  std::vector<std::string> class_names = {};
  Scalars scalars = {};
  std::string config_yaml = {};  ///< the resolved configuration

  bool operator==(const CheckpointMeta&) const = default;
};

/// A tensor, or some of its elements, in one file.
struct ManifestTensor {
  std::string name = {};
  Shape shape = {};     ///< of the whole
  Range elements = {};  ///< in the flattened tensor
  std::string file = {};
  std::string hash = {};  ///< of the bytes in memory, before they were written

  bool is_whole() const { return elements == Range{0, shape.numel()}; }
  /// In its file: flat where it is a part.
  Shape stored_shape() const { return is_whole() ? shape : Shape{elements.size()}; }
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
  std::vector<ManifestTensor> tensors = {};  ///< by ascending name, then by elements
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
