// SPDX-License-Identifier: Apache-2.0
#include "trainer/commands/open_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "trainer/commands/commands.h"
#include "trainer/config/config_text.h"
#include "trainer/config/user_path.h"
#include "trainer/loop/open_split.h"

namespace stipple::trainer {

OpenedRun open_run(comm::Communicator& communicator, const std::string& run_dir,
                   const std::vector<std::string>& overrides) {
  refuse_spaced_assignments(overrides);
  RunDirectory directory(run_dir);
  comm::agree(communicator, [&] {
    directory = RunDirectory(expand_path(run_dir, "run directory"));
    if (communicator.rank() == 0) directory.require_run();
  });
  Config trained = load_config_on_all_ranks(communicator, [&] { return directory.load_config(); });
  Config config =
      load_config_on_all_ranks(communicator, [&] { return trained.with({}, overrides); });
  auto task = open_task(communicator, config);
  return {std::move(directory), std::move(trained), std::move(config), std::move(task)};
}

std::vector<std::string> overridden_keys(const OpenedRun& run) {
  constexpr std::array<std::string_view, 3> kNotOf = {"eval.split", "eval.seeds", "threads"};
  std::vector<std::string> overridden;
  for (const KeyDifference& d : differing_keys(yaml_of(run.trained), yaml_of(run.config))) {
    if (std::find(kNotOf.begin(), kNotOf.end(), d.key) == kNotOf.end())
      overridden.push_back(fmt::format("{}={}", d.key, d.now.value_or("")));
  }
  return overridden;
}

}  // namespace stipple::trainer
