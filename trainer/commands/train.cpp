// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <optional>

#include "trainer/commands/commands.h"
#include "trainer/commands/train_run.h"
#include "trainer/loop/control_folder.h"
#include "trainer/loop/trainer.h"
#include "trainer/record/run_directory.h"

namespace stipple::trainer {
namespace {

/// With the steps that control/extend asks for.
Config load_extended(const ConfigArguments& arguments) {
  Config config = load_arguments(arguments.files, arguments.overrides);
  const RunDirectory directory(config.run.dir);
  const auto steps = ControlFolder(directory.control()).extended_steps();
  if (!steps) return config;
  std::vector<std::string> overrides = arguments.overrides;
  overrides.push_back(fmt::format("train.steps={}", *steps));
  return load_arguments(arguments.files, overrides);
}

}  // namespace

int train(comm::Communicator& communicator, const ConfigArguments& arguments) {
  const auto load = [&] {
    return load_config_on_all_ranks(communicator, [&] { return load_extended(arguments); });
  };
  return train_run(communicator, load(), load);
}

int train_run(comm::Communicator& communicator, Config config,
              const std::function<Config()>& load_again) {
  const RunDirectory directory(config.run.dir);
  std::optional<RunLock> lock;
  comm::agree(communicator, [&] {
    if (communicator.rank() != 0) return;
    directory.open(config.run.resume);
    lock.emplace(directory);
    directory.sweep();
    ControlFolder(directory.control()).open();
  });
  for (;;) {
    bool is_to_extend = false;
    int code = 0;
    {
      Trainer trainer(config, communicator);
      code = trainer.run();
      is_to_extend = trainer.is_to_extend();
    }
    if (!is_to_extend) return code;
    config = load_again();
  }
}

}  // namespace stipple::trainer
