// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/time_limit.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"

namespace stipple::trainer {
namespace {

double the_time_s = 0;
double the_time() { return the_time_s; }

/// Steps of `step_s` with a save of `save_s` after every hundredth, until it is time to leave; what
/// is left then.
double left_at_leaving(double end_s, double step_s, double save_s, double first_save_s) {
  the_time_s = 0;
  TimeLimit limit(JobEnd{end_s, "test"}, first_save_s, the_time);
  for (int step = 1; !limit.is_reached(); ++step) {
    the_time_s += step_s;
    if (step % 100 != 0) continue;
    the_time_s += save_s;
    limit.saved(save_s);
  }
  return limit.left_s();
}

TEST(TimeLimit, LeavesThreeTimesWhatIsNeeded) {
  const double left = left_at_leaving(3600, 1, 20, 5);
  EXPECT_LE(left, 3 * 21 + TimeLimit::kExit_s);
  EXPECT_GT(left, 3 * 21 + TimeLimit::kExit_s - 2) << "and not much earlier";
}

TEST(TimeLimit, ExpectsASaveBeforeItHasSeenOne) {
  const double left = left_at_leaving(60, 1, 1, 8);
  EXPECT_LE(left, 3 * 9 + TimeLimit::kExit_s);
  EXPECT_GT(left, 3 * 9 + TimeLimit::kExit_s - 2);
}

TEST(TimeLimit, AMeasuredSaveTakesThePlaceOfTheExpectedOne) {
  EXPECT_LE(left_at_leaving(3600, 1, 1, 500), 3 * 2 + TimeLimit::kExit_s);
}

TEST(TimeLimit, AStallLongAgoIsForgotten) {
  the_time_s = 0;
  TimeLimit limit(JobEnd{10000, "test"}, 0, the_time);
  EXPECT_FALSE(limit.is_reached());
  the_time_s += 2000;
  EXPECT_FALSE(limit.is_reached());
  the_time_s = 9000;
  limit.saved(0);
  EXPECT_TRUE(limit.is_reached()) << "1000 s are less than three of 2000";
  for (int step = 0; step < 200; ++step) {
    the_time_s += 1;
    limit.is_reached();
  }
  EXPECT_FALSE(limit.is_reached()) << limit.text();
}

TEST(TimeLimit, WithoutAnEndIsNeverReached) {
  TimeLimit limit(std::nullopt, 1, the_time);
  EXPECT_FALSE(limit.is_reached());
  EXPECT_TRUE(std::isinf(limit.left_s()));
}

TEST(TimeLimit, TheEarlierEndCounts) {
  Config config;
  EXPECT_FALSE(end_of_job(config, nullptr));
  EXPECT_FALSE(end_of_job(config, ""));
  config.run.max_time = "1:00:00";
  const auto by_key = end_of_job(config, nullptr);
  ASSERT_TRUE(by_key);
  EXPECT_EQ(by_key->said_by, "run.max_time");
  EXPECT_NEAR(by_key->at_s, unix_time_s() + 3600, 3500) << "from the start of the process";
  EXPECT_EQ(end_of_job(config, "1000000000")->said_by, "SLURM_JOB_END_TIME");
  EXPECT_EQ(end_of_job(config, "1000000000")->at_s, 1e9);
  EXPECT_EQ(end_of_job(config, "99999999999")->said_by, "run.max_time");
}

TEST(TimeLimit, WhatIsNoTimeIsRefused) {
  for (const char* text : {"soon", "12x", "1e9", "0x10"})
    EXPECT_THROW(end_of_job({}, text), ConfigError) << text;
}

}  // namespace
}  // namespace stipple::trainer
