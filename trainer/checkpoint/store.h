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

#include "comm/communicator.h"
#include "trainer/checkpoint/durable_file.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/tensor_ref.h"

namespace stipple::trainer {

class CheckpointStore {
 public:
  /// Makes the directory where it is missing and removes what interrupted saves left in it, so only
  /// one run may own it. `keep` is how many good checkpoints stay; ConfigError below 2.
  CheckpointStore(std::string directory, comm::Communicator&, int64_t keep);

  /// Returns once the checkpoint is durable. Then removes the oldest beyond `keep`, counting only
  /// those that verify. CheckpointError when it cannot be written: earlier checkpoints are
  /// untouched and a later save may succeed.
  void save(const CheckpointMeta&, std::span<const TensorRef>);

  /// See trainer/checkpoint/load.h. Nothing saved yet: none.
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

}  // namespace stipple::trainer
