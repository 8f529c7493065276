// SPDX-License-Identifier: Apache-2.0
// The training examples of phases whose sequences are shorter than the model's.
#pragma once

#include <memory>
#include <vector>

#include "comm/communicator.h"
#include "data/task_config.h"
#include "trainer/config/config.h"
#include "trainer/config/phases.h"

namespace stipple::trainer {

struct PhaseData {
  int64_t length;
  std::unique_ptr<data::Task> task;
  std::unique_ptr<data::Dataset> train_set;
};

/// One of each length below data.max_length that a phase has. ConfigError where the task's length is
/// not a matter of data.max_length; errors of open_split(). Collective.
std::vector<PhaseData> open_phase_data(comm::Communicator&, const Config&, const Phases&);

}  // namespace stipple::trainer
