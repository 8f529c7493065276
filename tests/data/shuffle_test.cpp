// SPDX-License-Identifier: Apache-2.0
#include "data/shuffle.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

#include "core/error.h"

namespace stipple::data {
namespace {

class ShuffleOf : public ::testing::TestWithParam<uint64_t> {};
INSTANTIATE_TEST_SUITE_P(Sizes, ShuffleOf, ::testing::Values(1, 2, 3, 4, 5, 10, 64, 65, 1000003));

TEST_P(ShuffleOf, TakesEveryValueOnce) {
  const uint64_t n = GetParam();
  for (uint64_t epoch = 0; epoch < 3; ++epoch) {
    const Shuffle shuffle(n, 42, epoch);
    std::vector<bool> seen(n, false);
    for (uint64_t i = 0; i < n; ++i) {
      const uint64_t value = shuffle(i);
      ASSERT_LT(value, n);
      ASSERT_FALSE(seen[value]) << value << " comes twice";
      seen[value] = true;
    }
  }
}

TEST(Shuffle, IsAFunctionOfSeedEpochAndPositionOnly) {
  const Shuffle first(1000, 7, 3);
  std::vector<uint64_t> forward;
  for (uint64_t i = 0; i < 1000; ++i) forward.push_back(first(i));
  const Shuffle second(1000, 7, 3);
  for (uint64_t i = 1000; i-- > 0;) EXPECT_EQ(second(i), forward[i]);
}

TEST(Shuffle, KeepsItsOrderBetweenVersions) {
  // Checkpoints store a position, not an order: these values may change only together with the
  // checkpoint format.
  const Shuffle shuffle(96000, 1, 2);
  const std::vector<uint64_t> expected = {5576, 76288, 73443, 77438};
  for (uint64_t i = 0; i < expected.size(); ++i) EXPECT_EQ(shuffle(i), expected[i]);
}

int count_equal(const Shuffle& a, const Shuffle& b, uint64_t n) {
  int equal = 0;
  for (uint64_t i = 0; i < n; ++i) equal += a(i) == b(i);
  return equal;
}

TEST(Shuffle, OrdersOfSeedsAndEpochsAreUnrelated) {
  // Two random orders agree in one place on average; in ten almost never.
  const uint64_t n = 5000;
  const Shuffle shuffle(n, 1, 0);
  EXPECT_LT(count_equal(shuffle, Shuffle(n, 1, 1), n), 10);
  EXPECT_LT(count_equal(shuffle, Shuffle(n, 2, 0), n), 10);
  EXPECT_LT(count_equal(Shuffle(n, 1, 2), Shuffle(n, 2, 1), n), 10);
}

TEST(Shuffle, ValueDoesNotFollowPosition) {
  const uint64_t n = 1000003;
  const Shuffle shuffle(n, 5, 0);
  const double mean = static_cast<double>(n - 1) / 2;
  double covariance = 0;
  double variance = 0;
  for (uint64_t i = 0; i < n; ++i) {
    const double x = static_cast<double>(i) - mean;
    covariance += x * (static_cast<double>(shuffle(i)) - mean);
    variance += x * x;
  }
  // One standard deviation of chance is 1e-3.
  EXPECT_LT(std::abs(covariance / variance), 5e-3);
}

TEST(Shuffle, EveryOrderOfThreeOccurs) {
  std::set<std::vector<uint64_t>> orders;
  for (uint64_t epoch = 0; epoch < 200; ++epoch) {
    const Shuffle shuffle(3, 0, epoch);
    orders.insert({shuffle(0), shuffle(1), shuffle(2)});
  }
  EXPECT_EQ(orders.size(), 6u);
}

TEST(Shuffle, NeedsNoMemoryForEndlessData) {
  const uint64_t n = uint64_t{1} << 40;
  const Shuffle shuffle(n, 9, 0);
  std::set<uint64_t> values;
  uint64_t largest = 0;
  for (uint64_t i = 0; i < 1000; ++i) {
    values.insert(shuffle(i));
    largest = std::max(largest, shuffle(i));
  }
  EXPECT_EQ(values.size(), 1000u);
  EXPECT_LT(largest, n);
  EXPECT_GT(largest, n / 2);
}

TEST(Shuffle, RefusesAnEmptyRange) { EXPECT_THROW(Shuffle(0, 0, 0), Error); }

}  // namespace
}  // namespace stipple::data
