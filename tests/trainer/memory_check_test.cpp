// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/memory_check.h"

#include <gtest/gtest.h>

#include "core/cpu/memory.h"

namespace stipple::trainer {
namespace {

using cpu::kUnlimited;

TEST(MemoryShortage, IsFoundOverTheRanksOfAMachine) {
  const RankMemory ranks[] = {{"a", 10, kUnlimited, 40},
                              {"b", 10, kUnlimited, 25},
                              {"b", 10, kUnlimited, 20},
                              {"b", 10, kUnlimited, 25}};
  const auto shortage = find_shortage(ranks);
  ASSERT_TRUE(shortage);
  EXPECT_EQ(shortage->rank, 1);
  EXPECT_EQ(shortage->ranks, 3);
  EXPECT_EQ(shortage->needed, 30u);
  EXPECT_EQ(shortage->available, 20u);
  EXPECT_FALSE(find_shortage(std::span(ranks).first(3)));
}

TEST(MemoryShortage, IsFoundInWhatOneRankHasForItself) {
  const RankMemory ranks[] = {{"a", 10, 10, kUnlimited}, {"a", 10, 9, kUnlimited}};
  const auto shortage = find_shortage(ranks);
  ASSERT_TRUE(shortage);
  EXPECT_EQ(shortage->rank, 1);
  EXPECT_EQ(shortage->ranks, 1);
  EXPECT_FALSE(find_shortage(std::span(ranks).first(1)));
}

TEST(LargestMicroBatch, IsTheLargestDivisorThatFits) {
  Config config;
  config.train.batch = 24;
  config.train.micro_batch = 12;
  const auto needed = [](const Config& c) { return static_cast<size_t>(c.train.micro_batch * 10); };
  EXPECT_EQ(largest_micro_batch(config, needed, 79), 6);
  EXPECT_EQ(largest_micro_batch(config, needed, 1000), 8) << "below that of the config";
  EXPECT_EQ(largest_micro_batch(config, needed, 9), 0);
}

TEST(IdleRanks, AreToldWithWhatHelps) {
  Config config;
  config.train.batch = 16;
  config.train.micro_batch = 4;
  EXPECT_EQ(idle_ranks_text(config, 4), "");
  EXPECT_EQ(idle_ranks_text(config, 6),
            "2 of 6 ranks have no work: train.batch 16 is 4 leaves of train.micro_batch 4; lower "
            "train.micro_batch or start 4 ranks");
}

}  // namespace
}  // namespace stipple::trainer
