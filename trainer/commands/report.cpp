// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/report.h"

#include "core/log.h"
#include "trainer/commands/commands.h"
#include "trainer/config/user_path.h"
#include "trainer/exit_code.h"
#include "trainer/record/run_directory.h"

namespace stipple::trainer {

int report(const std::string& run_dir) {
  const RunDirectory directory(expand_path(run_dir, "run directory"));
  write_report(directory.path());
  log::info("wrote " + directory.report());
  return kDone;
}

}  // namespace stipple::trainer
