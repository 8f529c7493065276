// SPDX-License-Identifier: Apache-2.0
#include "trainer/commands/open_run.h"

#include <utility>

#include "trainer/commands/commands.h"
#include "trainer/config/user_path.h"

namespace stipple::trainer {

OpenedRun open_run(comm::Communicator& communicator, const std::string& run_dir,
                   const std::vector<std::string>& overrides) {
  refuse_spaced_assignments(overrides);
  RunDirectory directory(run_dir);
  comm::agree(communicator, [&] {
    directory = RunDirectory(expand_path(run_dir, "run directory"));
    if (communicator.rank() == 0) directory.require_run();
  });
  Config config = load_config_on_all_ranks(
      communicator, [&] { return directory.load_config().with({}, overrides); });
  auto task = data::make_task(config.data, static_cast<uint64_t>(config.run.seed));
  return {std::move(directory), std::move(config), std::move(task)};
}

}  // namespace stipple::trainer
