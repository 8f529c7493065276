// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cstdlib>
#include <optional>

#include "core/log.h"
#include "trainer/checkpoint/step_directory.h"
#include "trainer/commands/commands.h"
#include "trainer/commands/train_run.h"
#include "trainer/config/phases.h"
#include "trainer/exit_code.h"
#include "trainer/loop/control_folder.h"
#include "trainer/loop/time_limit.h"
#include "trainer/loop/trainer.h"
#include "trainer/record/host_name.h"
#include "trainer/record/run_directory.h"
#include "trainer/record/start_log.h"

namespace stipple::trainer {
namespace {

/// With the steps that control/extend asks for.
Config load_extended(const ConfigArguments& arguments) {
  Config config = load_arguments(arguments.files, arguments.overrides);
  const RunDirectory directory(config.run.dir);
  const std::vector<int64_t> saved =
      path_exists(directory.control()) ? steps_in(directory.checkpoints()) : std::vector<int64_t>{};
  const int64_t done = saved.empty() ? 0 : std::ranges::max(saved);
  ControlFolder control(directory.control(), [&config](int64_t steps, int64_t those_done) {
    require_extensible(config, steps, those_done);
  });
  const auto steps = control.accepted_steps(done, done, config.train.steps);
  if (!steps) return config;
  log::info(fmt::format("{}: {} steps in place of {}", control.extend_file(), *steps,
                        config.train.steps));
  std::vector<std::string> overrides = arguments.overrides;
  overrides.push_back(fmt::format("train.steps={}", *steps));
  return load_arguments(arguments.files, overrides);
}

/// Tells starts.jsonl of the start, and of its end, whichever it is.
int run_and_record(Trainer& trainer, const RunDirectory& directory,
                   const comm::Communicator& communicator) {
  if (communicator.rank() != 0) return trainer.run();
  const char* job = std::getenv("SLURM_JOB_ID");
  write_start(directory.starts(), {.step = trainer.step(),
                                   .at_s = unix_time_s(),
                                   .host = host_name(),
                                   .ranks = communicator.size(),
                                   .job = job == nullptr ? "" : job});
  const auto record = [&](int exit_code, const std::string& why) {
    write_end(directory.starts(),
              {.step = trainer.step(), .at_s = unix_time_s(), .exit_code = exit_code, .why = why});
  };
  try {
    const int code = trainer.run();
    record(code, trainer.ended());
    return code;
  } catch (const std::exception& e) {
    record(exit_code_of(e), message_of(e));
    throw;
  }
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
    int code = kDone;
    {
      Trainer trainer(config, communicator);
      code = run_and_record(trainer, directory, communicator);
      is_to_extend = trainer.is_to_extend();
    }
    if (!is_to_extend) return code;
    config = load_again();
  }
}

}  // namespace stipple::trainer
