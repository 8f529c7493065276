// SPDX-License-Identifier: Apache-2.0
// The parameters of a trained run, for commands that use its model.
#pragma once

#include <string>

#include "comm/communicator.h"
#include "core/stream.h"
#include "model/parameter_store.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/config/config.h"

namespace stipple::trainer {

/// Fills them from the newest good checkpoint; where the run stood. What is not learned comes from
/// there, too, unless the configuration names a file that has it, or the checkpoint has none of it.
/// ConfigError where there is no checkpoint yet. Collective.
CheckpointMeta load_parameters(const std::string& run_dir, comm::Communicator&, const Config&,
                               const Stream&, model::ParameterStore&);

}  // namespace stipple::trainer
