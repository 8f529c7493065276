// SPDX-License-Identifier: Apache-2.0
// A save between its begin and its commit (trainer/checkpoint/store.h): this rank's part of it,
// which needs nobody else.
#pragma once

#include <exception>
#include <string>
#include <vector>

#include "trainer/checkpoint/shard.h"
#include "trainer/checkpoint/snapshot.h"

namespace stipple::trainer {

class PendingSave {
 public:
  /// Writes this rank's file, waits until it is durable and reads it back. On any thread; talks to
  /// no other rank. Once. Never throws: CheckpointStore::commit() tells all ranks what failed here.
  void write() noexcept;

 private:
  friend class CheckpointStore;
  PendingSave() = default;

  Snapshot snapshot_;
  std::vector<Piece> pieces_;
  int rank_ = 0;
  int world_size_ = 1;
  std::string temporary_;
  FaultPoint fault_;
  bool is_written_ = false;
  ShardReport report_;
  std::exception_ptr error_;
};

}  // namespace stipple::trainer
