// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/phase_data.h"

#include <algorithm>

#include "core/error.h"
#include "trainer/loop/open_split.h"

namespace stipple::trainer {

std::vector<PhaseData> open_phase_data(comm::Communicator& communicator, const Config& config,
                                       const Phases& phases) {
  std::vector<PhaseData> all;
  for (const Phase& phase : phases.all()) {
    const int64_t length = phase.max_length;
    const bool is_there = std::ranges::any_of(
        all, [length](const PhaseData& of_length) { return of_length.length == length; });
    if (length == config.data.max_length || is_there || phase.steps.size() == 0) continue;
    Config shorter = config;
    shorter.data.max_length = length;
    PhaseData& added = all.emplace_back(length, open_task(communicator, shorter), nullptr);
    comm::agree(communicator, [&] {
      STIPPLE_CHECK_AS(ConfigError, added.task->info().max_length == length, "train.phases.",
                       phase.name, ".max_length: examples of ", added.task->info().name, " have ",
                       added.task->info().max_length, " tokens, whatever it says; remove it");
    });
    added.train_set = open_split(communicator, *added.task, data::Split::kTrain);
  }
  return all;
}

}  // namespace stipple::trainer
