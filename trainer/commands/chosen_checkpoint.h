// SPDX-License-Identifier: Apache-2.0
// Which checkpoint of a run a command takes.
#pragma once

#include <string>
#include <string_view>

#include "comm/communicator.h"
#include "data/dataset.h"
#include "trainer/record/run_directory.h"

namespace stipple::trainer {

inline constexpr std::string_view kNewestCheckpoint = "newest";

/// What load_parameters() is to load. `which`: "newest"; "best", the one whose validation was
/// best by the task's first metric, the earliest of equals; or its step.
/// ConfigError where there is no such. Collective: rank 0 chooses.
std::string chosen_checkpoint(comm::Communicator&, const RunDirectory&, const data::TaskInfo&,
                              const std::string& which);

}  // namespace stipple::trainer
