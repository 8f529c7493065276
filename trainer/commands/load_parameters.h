// SPDX-License-Identifier: Apache-2.0
// The parameters of a trained run, for commands that use its model.
#pragma once

#include <string>

#include "comm/communicator.h"
#include "core/stream.h"
#include "model/parameter_store.h"
#include "trainer/checkpoint/manifest.h"

namespace stipple::trainer {

/// Fills them from the newest good checkpoint; where the run stood. ConfigError where there is none
/// yet. Collective.
CheckpointMeta load_parameters(const std::string& run_dir, comm::Communicator&, const Stream&,
                               const model::ParameterStore&);

}  // namespace stipple::trainer
