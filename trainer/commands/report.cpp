// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/report.h"

#include "core/error.h"
#include "core/log.h"
#include "trainer/commands/commands.h"
#include "trainer/config/user_path.h"
#include "trainer/exit_code.h"
#include "trainer/record/comparison.h"
#include "trainer/record/run_directory.h"

namespace stipple::trainer {

int report(const std::vector<std::string>& run_dirs, const std::string& out) {
  std::vector<std::string> runs;
  for (const std::string& run_dir : run_dirs) runs.push_back(expand_path(run_dir, "run directory"));
  STIPPLE_CHECK_AS(ConfigError, runs.size() > 1 || out.empty(),
                   "--out is for several runs; the report of one lies in its directory");
  std::string path = RunDirectory(runs.front()).report();
  if (runs.size() > 1) {
    path = out.empty() ? "comparison.html" : expand_path(out, "--out");
    write_comparison(runs, path);
  } else {
    write_report(runs.front());
  }
  log::info("wrote " + path);
  return kDone;
}

}  // namespace stipple::trainer
