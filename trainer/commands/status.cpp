// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "trainer/commands/commands.h"
#include "trainer/config/user_path.h"
#include "trainer/exit_code.h"
#include "trainer/loop/time_limit.h"
#include "trainer/record/run_status.h"

namespace stipple::trainer {

int status(const std::string& run_dir) {
  const RunDirectory directory(expand_path(run_dir, "run directory"));
  fmt::print("{}", status_text(read_status(directory), unix_time_s()));
  return kDone;
}

}  // namespace stipple::trainer
