// SPDX-License-Identifier: Apache-2.0
// A split of the task, read by every rank.
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "data/dataset.h"

namespace stipple::trainer {

/// DataError when it cannot be read or holds no examples. Rank 0 tells what was lost on the way.
/// Collective.
std::unique_ptr<data::Dataset> open_split(comm::Communicator&, const data::Task&, data::Split);

}  // namespace stipple::trainer
