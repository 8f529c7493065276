// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/open_split.h"

#include "core/error.h"
#include "core/log.h"

namespace stipple::trainer {

std::unique_ptr<data::Task> open_task(comm::Communicator& communicator, const Config& config) {
  std::unique_ptr<data::Task> task;
  comm::agree(communicator,
              [&] { task = data::make_task(config.data, static_cast<uint64_t>(config.run.seed)); });
  return task;
}

std::unique_ptr<data::Dataset> open_split(comm::Communicator& communicator, const data::Task& task,
                                          data::Split split) {
  std::unique_ptr<data::Dataset> dataset;
  comm::agree(communicator, [&] {
    dataset = task.open(split);
    if (communicator.rank() == 0) {
      for (const std::string& line : losses(dataset->intake(), data::split_name(split)))
        log::warn(line);
    }
    STIPPLE_CHECK_AS(DataError, dataset->size() > 0, "the split '", data::split_name(split),
                     "' of ", task.info().name, " has no examples");
  });
  return dataset;
}

std::unique_ptr<data::Dataset> open_training(comm::Communicator& communicator,
                                             const data::Task& task, const Config& config) {
  std::unique_ptr<data::Dataset> dataset = open_split(communicator, task, data::Split::kTrain);
  const data::DataConfig& data = config.data;
  if (data.task != data::TaskKind::kMlm || data.mlm.shards.empty()) return dataset;
  comm::agree(communicator, [&] {
    STIPPLE_CHECK_AS(DataError, dataset->size() >= config.train.batch,
                     "data.mlm.shards: ", data.mlm.shards, " gives ", dataset->size(),
                     " examples to train on, fewer than train.batch ", config.train.batch,
                     "; tokenize more text, or take a smaller batch");
  });
  return dataset;
}

}  // namespace stipple::trainer
