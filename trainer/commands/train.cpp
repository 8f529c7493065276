// SPDX-License-Identifier: Apache-2.0
#include <optional>

#include "trainer/commands/commands.h"
#include "trainer/commands/train_run.h"
#include "trainer/loop/trainer.h"
#include "trainer/record/run_directory.h"

namespace stipple::trainer {

int train(comm::Communicator& communicator, const ConfigArguments& arguments) {
  return train_run(communicator, load_config_on_all_ranks(communicator, [&] {
                     return load_arguments(arguments.files, arguments.overrides);
                   }));
}

int train_run(comm::Communicator& communicator, const Config& config) {
  const RunDirectory directory(config.run.dir);
  std::optional<RunLock> lock;
  comm::agree(communicator, [&] {
    if (communicator.rank() != 0) return;
    directory.open(config.run.resume);
    lock.emplace(directory);
    directory.sweep();
  });
  return Trainer(config, communicator).run();
}

}  // namespace stipple::trainer
