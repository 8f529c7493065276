// SPDX-License-Identifier: Apache-2.0
// Promises of the training loop as a whole: it uses exactly the memory that was planned, allocates
// nothing in a steady-state step, and several ranks make the step that one rank makes.
#include "trainer/trainer.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "comm/threads/thread_group.h"
#include "core/log.h"
#include "tests/support/allocation_count.h"

namespace stipple::trainer {
namespace {

/// A small repeated-token run in a folder of its own.
Config small_config(const std::string& name) {
  Config config;
  config.run.dir = (std::filesystem::temp_directory_path() / ("stipple-" + name)).string();
  std::filesystem::remove_all(config.run.dir);
  config.threads = 1;
  config.train = {.steps = 100, .batch = 8, .micro_batch = 2};
  config.data.task = data::TaskKind::kRepeatedToken;
  config.data.repeated_token = {.sequence = 96, .train_examples = 0, .eval_examples = 4};
  config.model.layers = 1;
  config.model.width = 32;
  config.optimizer.schedule.warmup_steps = 10;
  std::filesystem::create_directories(config.run.dir);
  return config;
}

TEST(Trainer, UsesExactlyThePlannedMemory) {
  for (const auto kind : {model::AttentionKind::kSoftmax, model::AttentionKind::kSbm}) {
    Config config = small_config("plan");
    config.attention.kind = kind;
    const auto communicator = comm::make_single_communicator();
    Trainer trainer(config, *communicator);
    trainer.train_step();
    EXPECT_EQ(trainer.replica().saved_peak(), trainer.plan().saved);
    EXPECT_LE(trainer.replica().scratch_peak(), trainer.plan().scratch);
    EXPECT_GT(trainer.plan().total(), trainer.plan().saved);
    std::filesystem::remove_all(config.run.dir);
  }
}

TEST(Trainer, AllocatesNothingAfterTheFirstStep) {
  for (const auto kind : {model::AttentionKind::kSoftmax, model::AttentionKind::kSbm}) {
    Config config = small_config("allocations");
    config.attention.kind = kind;
    const auto communicator = comm::make_single_communicator();
    Trainer trainer(config, *communicator);
    trainer.train_step();
    const int64_t before = test::allocations;
    for (int i = 0; i < 3; ++i) trainer.train_step();
    EXPECT_EQ(test::allocations - before, 0);
    std::filesystem::remove_all(config.run.dir);
  }
}

TEST(Trainer, FourRanksMakeTheStepOfOne) {
  const auto losses_of = [](int ranks) {
    const Config config = small_config("ranks");
    std::vector<double> losses;
    comm::run_ranks(ranks, [&](comm::Communicator& communicator) {
      Trainer trainer(config, communicator);
      for (int i = 0; i < 3; ++i) {
        const Trainer::StepResult result = trainer.train_step();
        if (communicator.rank() == 0) {
          losses.push_back(result.loss);
          losses.push_back(result.grad_norm);
        }
      }
    });
    std::filesystem::remove_all(config.run.dir);
    return losses;
  };
  const std::vector<double> alone = losses_of(1);
  EXPECT_EQ(losses_of(4), alone);
  EXPECT_EQ(losses_of(3), alone);
  EXPECT_NE(alone[0], alone[2]);
}

}  // namespace
}  // namespace stipple::trainer
