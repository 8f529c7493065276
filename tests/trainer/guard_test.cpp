// SPDX-License-Identifier: Apache-2.0
#include "trainer/optimizer/guard.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "core/error.h"
#include "trainer/checkpoint/scalars.h"

namespace stipple::trainer {
namespace {

constexpr double kNotANumber = std::numeric_limits<double>::quiet_NaN();
constexpr auto kSkip = SpikeGuard::Verdict::kSkip;
constexpr auto kApply = SpikeGuard::Verdict::kApply;
constexpr double kInf = std::numeric_limits<double>::infinity();

/// Three good steps with losses 1, 2, 3 and norms 10, 20, 30: medians 2 and 20.
SpikeGuard warmed_up(double factor = 3) {
  SpikeGuard guard({.spike_factor = factor, .window = 3, .max_skips = 4});
  for (int i = 1; i <= 3; ++i) EXPECT_EQ(guard.check(i, i, 10 * i), kApply);
  return guard;
}

/// What a person reads about a step that must be skipped.
std::string skip_message(SpikeGuard& guard, int64_t step, double loss, double norm) {
  testing::internal::CaptureStderr();
  EXPECT_EQ(guard.check(step, loss, norm), kSkip);
  return testing::internal::GetCapturedStderr();
}

TEST(SpikeGuard, SkipsNonFiniteStepsEvenWhenOff) {
  SpikeGuard guard({.spike_factor = 0, .window = 2, .max_skips = 100});
  EXPECT_EQ(skip_message(guard, 1, kNotANumber, 1), "step 1 was not applied: the loss is nan\n");
  EXPECT_EQ(skip_message(guard, 2, 1, kInf), "step 2 was not applied: the gradient norm is inf\n");
  EXPECT_EQ(guard.check(3, -kInf, 1), kSkip);
  EXPECT_EQ(guard.check(4, 1, 1), kApply);
}

TEST(SpikeGuard, LetsSpikesPassWhenOff) {
  SpikeGuard guard = warmed_up(0);
  EXPECT_EQ(guard.check(4, 1e30, 1e30), kApply);
}

TEST(SpikeGuard, SkipsWhatExceedsTheMedianBySpikeFactor) {
  EXPECT_EQ(warmed_up().check(4, 6, 60), kApply);
  SpikeGuard guard = warmed_up();
  EXPECT_EQ(skip_message(guard, 4, 6.5, 60),
            "step 4 was not applied: the loss is 6.5, more than 3 times its median 2\n");
  EXPECT_EQ(skip_message(guard, 5, 6, 61),
            "step 5 was not applied: the gradient norm is 61, more than 3 times its median 20\n");
}

TEST(SpikeGuard, JudgesNoSpikeBeforeTheWindowIsFull) {
  SpikeGuard guard({.spike_factor = 3, .window = 3, .max_skips = 4});
  EXPECT_EQ(guard.check(1, 1, 1), kApply);
  EXPECT_EQ(guard.check(2, 1, 1), kApply);
  EXPECT_EQ(guard.check(3, 100, 100), kApply);
  EXPECT_EQ(guard.check(4, 100, 1), kSkip);
}

TEST(SpikeGuard, SkippedValuesDoNotEnterTheMedian) {
  SpikeGuard guard = warmed_up();
  EXPECT_EQ(guard.check(4, 100, 20), kSkip);
  EXPECT_EQ(guard.check(5, 100, 20), kSkip);
  EXPECT_EQ(guard.check(6, 7, 20), kSkip);
}

TEST(SpikeGuard, TheMedianForgetsOldValues) {
  SpikeGuard guard = warmed_up();
  for (int i = 4; i <= 6; ++i) EXPECT_EQ(guard.check(i, 6, 20), kApply);
  EXPECT_EQ(guard.check(7, 18, 20), kApply);
}

TEST(SpikeGuard, StopsAfterTooManySkipsInARow) {
  SpikeGuard guard = warmed_up();
  for (int i = 4; i <= 6; ++i) EXPECT_EQ(guard.check(i, kNotANumber, 1), kSkip);
  try {
    guard.check(7, kNotANumber, 1);
    FAIL() << "went on";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "stopped at step 7: the loss is nan, and 4 steps in a row could not be applied; "
                 "try a lower optimizer.learning_rate, a longer optimizer.schedule.warmup_steps or "
                 "optimizer.clip_norm=1, or a larger guard.spike_factor");
  }
}

TEST(SpikeGuard, AGoodStepEndsARowOfSkips) {
  SpikeGuard guard = warmed_up();
  for (int round = 0; round < 5; ++round) {
    for (int i = 0; i < 3; ++i) EXPECT_EQ(guard.check(i, kNotANumber, 1), kSkip);
    EXPECT_EQ(guard.check(9, 2, 20), kApply);
  }
  EXPECT_EQ(guard.consecutive_skips(), 0);
}

Scalars state_of(SpikeGuard& guard) {
  return scalars_of([&](StateVisitor& v) { guard.describe_state(v); });
}

void restore(SpikeGuard& guard, const Scalars& state) {
  restore_scalars(state, [&](StateVisitor& v) { guard.describe_state(v); });
}

TEST(SpikeGuard, ARestoredGuardDecidesTheSame) {
  const GuardConfig config{.spike_factor = 1.2, .window = 5, .max_skips = 1000};
  std::mt19937_64 generator(5);
  std::uniform_real_distribution<double> value(0.5, 1.5);
  SpikeGuard original(config);
  int skips = 0;
  testing::internal::CaptureStderr();  // a hundred reasons
  for (int step = 0; step < 300; ++step) {
    SpikeGuard copy(config);
    restore(copy, state_of(original));
    const double loss = value(generator);
    const double norm = value(generator);
    const SpikeGuard::Verdict verdict = original.check(step, loss, norm);
    EXPECT_EQ(copy.check(step, loss, norm), verdict);
    EXPECT_EQ(state_of(copy), state_of(original));
    skips += verdict == kSkip;
  }
  testing::internal::GetCapturedStderr();
  EXPECT_GT(skips, 20);
  EXPECT_LT(skips, 280);
}

TEST(SpikeGuard, AShorterWindowKeepsTheNewestValues) {
  SpikeGuard longer = warmed_up();
  SpikeGuard shorter({.spike_factor = 3, .window = 1, .max_skips = 4});
  restore(shorter, state_of(longer));
  EXPECT_EQ(state_of(shorter).list("guard/losses"), std::vector<double>{3});
  EXPECT_EQ(shorter.check(4, 9, 90), kApply);
  EXPECT_EQ(state_of(shorter).count("guard/consecutive_skips"), 0);
  EXPECT_EQ(state_of(shorter).list("guard/norms"), std::vector<double>{90});
}

TEST(SpikeGuard, DamagedStatesAreRefused) {
  SpikeGuard guard({});
  const Scalars good = state_of(guard);
  EXPECT_THROW(restore(guard, {}), CheckpointError);
  Scalars lopsided = good;
  lopsided.numbers["guard/losses"] = {1};
  EXPECT_THROW(restore(guard, lopsided), CheckpointError);
  Scalars negative = good;
  negative.counts["guard/consecutive_skips"] = -1;
  EXPECT_THROW(restore(guard, negative), CheckpointError);
}

}  // namespace
}  // namespace stipple::trainer
