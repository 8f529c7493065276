// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "core/error.h"
#include "data/task_config.h"

namespace stipple::data {

/// Why a task's data cannot be opened; "nothing" where they can.
inline std::string what_open_says(const DataConfig& config) {
  try {
    make_task(config, 0)->open(Split::kTrain);
  } catch (const DataError& error) {
    return error.what();
  }
  return "nothing";
}

}  // namespace stipple::data
