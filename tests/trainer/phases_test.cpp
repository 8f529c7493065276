// SPDX-License-Identifier: Apache-2.0
#include "trainer/config/phases.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/error.h"

namespace stipple::trainer {
namespace {

/// BERT's: 90 % of the steps at length 128, the rest at 512.
std::vector<std::string> two_phases() {
  return {"train.steps=1000",
          "train.batch=256",
          "train.micro_batch=16",
          "data.max_length=512",
          "optimizer.learning_rate=1e-3",
          "optimizer.schedule.kind=polynomial",
          "optimizer.schedule.warmup_steps=100",
          "train.phases.short.steps=90%",
          "train.phases.short.max_length=128",
          "train.phases.long.steps=10%",
          "train.phases.long.batch=64",
          "train.phases.long.micro_batch=4"};
}

Phases phases_of(std::vector<std::string> overrides, const std::vector<std::string>& more = {}) {
  overrides.insert(overrides.end(), more.begin(), more.end());
  return Phases(Config::load({}, overrides));
}

std::string phase_mistake(const std::vector<std::string>& more) {
  try {
    std::vector<std::string> overrides = two_phases();
    overrides.insert(overrides.end(), more.begin(), more.end());
    validate(Config::load({}, overrides));
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "none";
}

TEST(Phases, ARunWithoutAnyIsOne) {
  const Config config;
  const Phases phases(config);
  ASSERT_EQ(phases.all().size(), 1U);
  const Phase& phase = phases.at(0);
  EXPECT_EQ(text_of(phase), "");
  EXPECT_EQ(phase.steps, (Range{0, config.train.steps}));
  EXPECT_EQ(phase.batch, config.train.batch);
  EXPECT_EQ(phases.examples_before(7), 7 * config.train.batch);
  EXPECT_EQ(&phases.at(config.train.steps), &phase);
  const StepRates expected =
      rates_at(config.optimizer.schedule, config.optimizer.learning_rate, 33, config.train.steps);
  EXPECT_EQ(phase.rates_at(33).learning_rate, expected.learning_rate);
  EXPECT_EQ(phase.rates_at(33).beta1, expected.beta1);
}

TEST(Phases, ComeOneAfterTheOtherWithWhatTheyName) {
  const Phases phases = phases_of(two_phases());
  ASSERT_EQ(phases.all().size(), 2U);
  EXPECT_EQ(text_of(phases.at(0)),
            "phase short: steps 0 to 899, 128 tokens, 256 examples in leaves of 16");
  EXPECT_EQ(text_of(phases.at(900)),
            "phase long: steps 900 to 999, 512 tokens, 64 examples in leaves of 4");
  EXPECT_EQ(phases.at(899).name, "short");
  EXPECT_EQ(phases.at(1000).name, "long");
  EXPECT_EQ(phases.examples_before(0), 0);
  EXPECT_EQ(phases.examples_before(900), 900 * 256);
  EXPECT_EQ(phases.examples_before(903), 900 * 256 + 3 * 64);
  EXPECT_EQ(phases.examples_before(1000), 900 * 256 + 100 * 64);
}

TEST(Phases, ShareOneScheduleUnlessOneBeginsAnew) {
  const Phases one = phases_of(two_phases());
  EXPECT_NEAR(one.at(50).rates_at(50).learning_rate, 5e-4, 1e-15);
  EXPECT_NEAR(one.at(899).rates_at(899).learning_rate, 1.01e-4, 1e-15);
  EXPECT_NEAR(one.at(900).rates_at(900).learning_rate, 1e-4, 1e-15);
  EXPECT_NEAR(one.at(950).rates_at(950).learning_rate, 5e-5, 1e-15);

  // LAMB's second phase: a rate of its own, warmed up again, down to 0 with the phase.
  const Phases two = phases_of(
      two_phases(), {"train.phases.short.schedule=restart", "train.phases.long.schedule=restart",
                     "train.phases.long.learning_rate=4e-4", "train.phases.long.warmup_steps=20%"});
  EXPECT_NEAR(two.at(50).rates_at(50).learning_rate, 5e-4, 1e-15);
  EXPECT_NEAR(two.at(450).rates_at(450).learning_rate, 5e-4, 1e-15);
  EXPECT_NEAR(two.at(900).rates_at(900).learning_rate, 0.0, 1e-15);
  EXPECT_NEAR(two.at(905).rates_at(905).learning_rate, 1e-4, 1e-15);
  EXPECT_NEAR(two.at(919).rates_at(919).learning_rate, 3.8e-4, 1e-15);
  EXPECT_NEAR(two.at(920).rates_at(920).learning_rate, 3.2e-4, 1e-15);
  EXPECT_NEAR(two.at(975).rates_at(975).learning_rate, 1e-4, 1e-15);
}

TEST(Phases, SharesAreTheWholeRunWhateverItsSteps) {
  for (int steps = 1; steps <= 40; ++steps) {
    const Phases phases = phases_of(two_phases(), {"train.steps=" + std::to_string(steps),
                                                   "optimizer.schedule.warmup_steps=0"});
    EXPECT_EQ(phases.all()[0].steps.begin, 0);
    EXPECT_EQ(phases.all()[0].steps.end, phases.all()[1].steps.begin);
    EXPECT_EQ(phases.all()[1].steps.end, steps);
  }
  const Phases one_step =
      phases_of(two_phases(), {"train.steps=1", "optimizer.schedule.warmup_steps=0"});
  EXPECT_EQ(one_step.at(0).name, "short");
  EXPECT_EQ(one_step.at(1).name, "short");
  EXPECT_EQ(text_of(one_step.all()[1]), "phase long: no steps");
}

TEST(Phases, ABatchMayGrowStepwiseOverTheSameExamples) {
  const Phases ramp = phases_of({"train.steps=30", "train.batch=32", "train.micro_batch=4",
                                 "optimizer.schedule.warmup_steps=0", "train.phases.a.steps=10",
                                 "train.phases.a.batch=8", "train.phases.b.steps=10",
                                 "train.phases.b.batch=16", "train.phases.c.steps=10"});
  EXPECT_EQ(ramp.examples_before(10), 80);
  EXPECT_EQ(ramp.examples_before(20), 240);
  EXPECT_EQ(ramp.examples_before(30), 560);
  const auto starts = data_starts(ramp.all(), [](int64_t) -> int64_t { return 100; });
  ASSERT_EQ(starts.size(), 3U);
  EXPECT_EQ(starts[1].position, 80);
  EXPECT_EQ(starts[2].position, 240);
  for (const DataStart& start : starts) EXPECT_EQ(start.first_epoch, 0U);
}

TEST(Phases, AnotherLengthBeginsItsExamplesInANewEpoch) {
  const Phases phases =
      phases_of({"train.steps=40", "train.batch=8", "train.micro_batch=4", "data.max_length=64",
                 "optimizer.schedule.warmup_steps=0", "train.phases.a.steps=20",
                 "train.phases.a.max_length=16", "train.phases.b.steps=10",
                 "train.phases.c.steps=10", "train.phases.c.max_length=16"});
  const auto starts =
      data_starts(phases.all(), [](int64_t length) -> int64_t { return length == 16 ? 100 : 25; });
  EXPECT_EQ(starts[0].first_epoch, 0U);
  EXPECT_EQ(starts[1].first_epoch, 2U);  // 160 of 100: two epochs were begun
  EXPECT_EQ(starts[1].position, 0);
  EXPECT_EQ(starts[2].first_epoch, 6U);  // 80 of 25: four more
  EXPECT_EQ(starts[2].position, 0);
}

TEST(Phases, MayBeExtendedWhereWhatIsDoneStaysWhatItWas) {
  const auto refused = [](const std::string& warmup, int64_t steps, int64_t done) {
    std::vector<std::string> overrides = two_phases();
    overrides.push_back("optimizer.schedule.warmup_steps=" + warmup);
    try {
      require_extensible(Config::load({}, overrides), steps, done);
    } catch (const ConfigError&) {
      return true;
    }
    return false;
  };
  EXPECT_FALSE(refused("10%", 2000, 500));
  EXPECT_TRUE(refused("10%", 2000, 950)) << "step 950 would have been of the first phase";
  EXPECT_FALSE(refused("100", 800, 10));
  EXPECT_TRUE(refused("900", 800, 10)) << "the warm-up does not fit";
}

TEST(Phases, WhatCannotBeIsNamed) {
  EXPECT_EQ(phase_mistake({}), "none");
  EXPECT_EQ(phase_mistake({"train.phases.long.steps=20%"}),
            "train.phases: their steps add up to 1100, and train.steps is 1000");
  EXPECT_EQ(phase_mistake({"train.phases.more.batch=32"}),
            "train.phases.more.steps: is missing; write a number, or a share of train.steps: 90%");
  EXPECT_EQ(phase_mistake({"train.phases.long.max_length=1024"}),
            "train.phases.long.max_length: 1024 is more than data.max_length 512, which the model "
            "is made for");
  EXPECT_EQ(phase_mistake({"train.phases.long.batch=66"}),
            "train.phases.long.batch: 66 is not a multiple of its micro_batch 4");
  EXPECT_EQ(phase_mistake({"train.phases.long.warmup_steps=3"}),
            "train.phases.long.warmup_steps: is of a schedule of the phase's own; use schedule: "
            "restart with it");
  EXPECT_EQ(
      phase_mistake({"train.phases.long.warmup_steps=101", "train.phases.long.schedule=restart"}),
      "train.phases.long.warmup_steps: 101 does not fit into 100 steps; use a share, like "
      "10%");
  EXPECT_NE(phase_mistake({"train.phases.long.batc=3"}).find("train.phases.long.batch"),
            std::string::npos);
}

}  // namespace
}  // namespace stipple::trainer
