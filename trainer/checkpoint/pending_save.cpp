// SPDX-License-Identifier: Apache-2.0
#include "trainer/checkpoint/pending_save.h"

namespace stipple::trainer {

void PendingSave::write() noexcept {
  try {
    report_ =
        write_shard(temporary_, shard_name(rank_, world_size_), snapshot_, pieces_, rank_, fault_);
    is_written_ = true;
  } catch (...) {
    error_ = std::current_exception();
  }
}

}  // namespace stipple::trainer
