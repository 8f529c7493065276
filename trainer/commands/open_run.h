// SPDX-License-Identifier: Apache-2.0
// What commands that take a trained run begin with.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "data/task_config.h"
#include "trainer/config/config.h"
#include "trainer/record/run_directory.h"

namespace stipple::trainer {

struct OpenedRun {
  RunDirectory directory;
  Config trained;  ///< the run's
  Config config;   ///< with overrides
  std::unique_ptr<data::Task> task;
};

/// Collective. ConfigError on all ranks where `run_dir` holds no run or an override does not fit.
OpenedRun open_run(comm::Communicator&, const std::string& run_dir,
                   const std::vector<std::string>& overrides);

/// Each key that an override changed, as "key=value"; not those that the record of an evaluation tells
/// besides, or that have no influence on its result.
std::vector<std::string> overridden_keys(const OpenedRun&);

}  // namespace stipple::trainer
