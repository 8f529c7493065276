// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/report.h"

#include "core/log.h"
#include "trainer/commands/commands.h"
#include "trainer/exit_code.h"

namespace stipple::trainer {

int report(const std::string& run_dir) {
  write_report(run_dir);
  log::info("wrote " + run_dir + "/report.html");
  return kDone;
}

}  // namespace stipple::trainer
