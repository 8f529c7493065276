// SPDX-License-Identifier: Apache-2.0
// Saving and restoring a run. A checkpoint is written to a temporary directory, verified by reading
// it back, and appears under its name by one rename: whatever interrupts a save, what was there
// before stays good. Restoring takes the newest checkpoint whose every hash holds. The number of
// ranks that read need not be the number that wrote.
//
//   CheckpointStore checkpoints(run + "/checkpoints", comm, config.keep);
//   if (auto meta = checkpoints.load_newest(tensors)) position = meta->data_position;
//   checkpoints.save({.step = step, ...}, tensors);
//
// Directory format: trainer/checkpoint/manifest.h. All calls are collective; an error on one rank is thrown on
// all.
#pragma once

#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "comm/communicator.h"
#include "trainer/checkpoint/content_hash.h"
#include "trainer/checkpoint/durable_file.h"
#include "trainer/checkpoint/manifest.h"

namespace stipple::trainer {

/// A tensor of the run, in host memory and equal on every rank. Named "parameter/<name>",
/// "first_moment/<name>" or "second_moment/<name>"; the part before the first '/' is its kind.
struct TensorRef {
  std::string name;
  Shape shape;
  std::span<float> data;
};

class CheckpointStore {
 public:
  /// Makes the directory where it is missing and removes what interrupted saves left in it, so only
  /// one run may own it. `keep` is how many good checkpoints stay; ConfigError below 2.
  CheckpointStore(std::string directory, comm::Communicator&, int64_t keep);

  /// Returns once the checkpoint is durable. Then removes the oldest beyond `keep`, counting only
  /// those that verify. CheckpointError when it cannot be written: earlier checkpoints are
  /// untouched and a later save may succeed.
  void save(const CheckpointMeta&, std::span<const TensorRef>);

  /// See load_checkpoint. Nothing saved yet: none.
  std::optional<CheckpointMeta> load_newest(std::span<const TensorRef> into,
                                            std::string_view config_yaml = {});

  /// For tests: called before each system step of a save on this rank.
  void set_fault_point(FaultPoint fault) { fault_ = std::move(fault); }

 private:
  void sweep();
  void commit(const Manifest&, const std::string& temporary, const std::string& target);
  void discard(const std::string& directory) noexcept;
  void retain(int64_t saved);
  bool is_good(int64_t step);

  std::string directory_;
  comm::Communicator& comm_;
  int64_t keep_;
  FaultPoint fault_;
  std::set<int64_t> known_good_;  ///< verified by this process; rank 0 only
};

/// Fills `into` from a checkpoint directory, or from the newest good one of a `checkpoints` or run
/// directory, changing nothing on disk. Each checkpoint that fails verification is named in a
/// warning with the reason. Tensors of kinds that `into` does not have are left out: parameters
/// alone can be restored.
///   DataError: there are checkpoints but none is good.
///   ConfigError: the tensors do not fit, naming them; before that, when the present `config_yaml`
///   is given, its keys that contradict the stored one (trainer/config/resume.h).
///   None: there is no checkpoint.
std::optional<CheckpointMeta> load_checkpoint(const std::string& path, comm::Communicator&,
                                              std::span<const TensorRef> into,
                                              std::string_view config_yaml = {});

/// The checkpoint directories that `path` stands for, newest first: itself, or those in it, or in
/// its `checkpoints`.
std::vector<std::string> list_checkpoints(const std::string& path);

/// The identity of a training state: the same for any number of ranks that wrote it. Tensors in
/// ascending order of names.
class StateHasher {
 public:
  explicit StateHasher(const CheckpointMeta&);
  void add(std::string_view name, const Shape&, std::span<const std::byte> bytes);
  std::string hex() const { return hasher_.hex(); }

 private:
  void add_integer(int64_t value);
  ContentHasher hasher_;
};

std::string state_hash(const CheckpointMeta&, std::span<const TensorRef>);

/// Which rank writes each tensor: largest first to the rank with least to do.
std::vector<int> deal_tensors(std::span<const TensorRef>, int world_size);

/// What a checkpoint holds, for a person: tensors with statistics, totals, files, and a last line
/// "state <hex>". `path` as for load_checkpoint. DataError naming every failing item when it does
/// not verify; ConfigError where there is none.
std::string inspect_checkpoint(const std::string& path);

}  // namespace stipple::trainer
