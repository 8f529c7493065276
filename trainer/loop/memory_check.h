// SPDX-License-Identifier: Apache-2.0
// Whether the memory that ranks plan to take is there, before any of them takes it.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "trainer/loop/replica.h"

namespace stipple::trainer {

/// What one rank needs, in bytes, and what it sees.
struct RankMemory {
  std::string host;
  size_t needed = 0;
  size_t own = 0;     ///< nobody else can take it: address space, or a GPU's memory
  size_t shared = 0;  ///< with the ranks of this host
};

struct MemoryShortage {
  int rank = 0;       ///< the first that it concerns
  int ranks = 1;      ///< that share what there is
  size_t needed = 0;  ///< by them together
  size_t available = 0;
};
/// The first shortage by rank; none when every rank can have what it needs.
std::optional<MemoryShortage> find_shortage(std::span<const RankMemory> by_rank);

/// The largest micro-batch, below that of the config, whose plan needs no more than so many bytes a
/// rank; 0: not even one example at a time.
int64_t largest_micro_batch(const Config&, const std::function<size_t(const Config&)>& needed,
                            size_t available);

/// ConfigError, the same on all ranks, that says what would help: before anything is allocated.
/// `plan` is this rank's. Collective.
void require_memory(const MemoryPlan& plan, const Config&, const data::TaskInfo&, int threads,
                    Device, comm::Communicator&, PlanFor = PlanFor::kTraining);

}  // namespace stipple::trainer
