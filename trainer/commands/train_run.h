// SPDX-License-Identifier: Apache-2.0
// Training as the command `train` does it, for commands that train several runs one after the other.
#pragma once

#include <functional>

#include "comm/communicator.h"
#include "trainer/config/config.h"

namespace stipple::trainer {

/// Trains, or goes on training, the run in run.dir of a configuration that all ranks have
/// (load_config_on_all_ranks). `load_again` is called when the run's control folder asks for other
/// steps meanwhile. Returns an ExitCode. Collective.
int train_run(comm::Communicator&, Config, const std::function<Config()>& load_again);

}  // namespace stipple::trainer
