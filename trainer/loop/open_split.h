// SPDX-License-Identifier: Apache-2.0
// The task and its splits, read by every rank.
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "data/task_config.h"
#include "trainer/config/config.h"

namespace stipple::trainer {

/// ConfigError or DataError on all ranks when it cannot be. Collective.
std::unique_ptr<data::Task> open_task(comm::Communicator&, const Config&);

/// DataError when it cannot be read or holds no examples. Rank 0 tells what was lost on the way.
/// Collective.
std::unique_ptr<data::Dataset> open_split(comm::Communicator&, const data::Task&, data::Split);

/// The split that is trained on. DataError also for shards with less than one global batch: their
/// corpus is not the one that was meant. Collective.
std::unique_ptr<data::Dataset> open_training(comm::Communicator&, const data::Task&, const Config&);

}  // namespace stipple::trainer
