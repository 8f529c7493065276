// SPDX-License-Identifier: Apache-2.0
// Saving and restoring a run. A checkpoint is written to a temporary directory, verified by reading
// it back, and appears under its name by one rename: whatever interrupts a save, what was there
// before stays good. Restoring takes the newest checkpoint whose every hash holds. The number of
// ranks that read need not be the number that wrote.
//
//   CheckpointStore checkpoints(run + "/checkpoints", comm, config.keep);
//   if (auto meta = checkpoints.load_newest(tensors)) step = meta->step;
//   PendingSave save = checkpoints.begin({{.step = step, ...}, tensors});
//   save.write();                       // on any thread, while others compute and communicate
//   checkpoints.commit(save);
//
// Directory format: trainer/checkpoint/manifest.h. All calls but PendingSave::write() are
// collective; an error on one rank is thrown on all.
#pragma once

#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include "comm/communicator.h"
#include "core/function_ref.h"
#include "trainer/checkpoint/durable_file.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/pending_save.h"
#include "trainer/checkpoint/snapshot.h"
#include "trainer/checkpoint/tensor_ref.h"

namespace stipple::trainer {

class CheckpointStore {
 public:
  /// Makes the directory where it is missing and removes what interrupted saves left in it, so only
  /// one run may own it. `keep` is how many good checkpoints stay; ConfigError below 2.
  CheckpointStore(std::string directory, comm::Communicator&, int64_t keep);

  /// Makes the place for a save, and settles who writes what. What the snapshot's tensors refer to
  /// must not change before write() has returned. CheckpointError when there is no room. One that is
  /// never committed leaves a directory that the next store here sweeps.
  PendingSave begin(Snapshot);
  /// After write() on every rank. Returns once the checkpoint is durable. Then removes the oldest
  /// beyond `keep`, counting only those that verify, but for the protected one. CheckpointError when
  /// it could not be written: earlier checkpoints are untouched and a later save may succeed.
  void commit(PendingSave&);
  /// All three at once.
  void save(Snapshot);

  /// The checkpoint of this step stays, however many newer ones there are; it is not counted among
  /// them. Instead of the one named before. Rank 0 decides; not collective.
  void protect(std::optional<int64_t> step) { protected_ = step; }

  /// See trainer/checkpoint/load.h. Nothing saved yet: none.
  std::optional<CheckpointMeta> load_newest(std::span<const TensorRef> into,
                                            std::string_view config_yaml = {});

  /// For tests: called before each system step of a save on this rank.
  void set_fault_point(FaultPoint fault) { fault_ = std::move(fault); }

 private:
  void sweep();
  void discarding_on_error(const std::string& temporary, FunctionRef<void()> body);
  void publish(const Manifest&, const std::string& temporary);
  void discard(const std::string& directory) noexcept;
  void retain(int64_t saved);
  bool is_good(int64_t step);

  std::string directory_;
  comm::Communicator& comm_;
  int64_t keep_;
  std::optional<int64_t> protected_;
  FaultPoint fault_;
  std::set<int64_t> known_good_;  ///< verified by this process; rank 0 only
};

}  // namespace stipple::trainer
