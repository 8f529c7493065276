// SPDX-License-Identifier: Apache-2.0
// The generator against an independent implementation of the published one (200 000 examples).
// Tolerances are at least four standard deviations of the 20 000 examples made here.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <vector>

#include "data/listops.h"

namespace stipple::data::listops {
namespace {

using Histogram = std::array<double, kNumClasses>;

class ListopsStatistics : public ::testing::Test {
 protected:
  static constexpr size_t kExamples = 20000;

  static void SetUpTestSuite() {
    for (; trees_.size() < kExamples; ++num_candidates_) {
      std::vector<uint8_t> tree = candidate({.seed = 2024}, num_candidates_);
      if (!tree.empty()) trees_.push_back(std::move(tree));
    }
    for (const auto& tree : trees_) labels_.push_back(evaluate(tree));
  }

  static std::vector<double> lengths() {
    std::vector<double> lengths;
    for (const auto& tree : trees_) lengths.push_back(static_cast<double>(tree.size()));
    return lengths;
  }

  static Histogram label_shares(uint8_t root) {
    Histogram shares{};
    double total = 0;
    for (size_t i = 0; i < kExamples; ++i) {
      if (root != kPad && trees_[i][0] != root) continue;
      ++shares[static_cast<size_t>(labels_[i])];
      ++total;
    }
    for (double& share : shares) share /= total;
    return shares;
  }

  /// Of the labels from 0 that `expected` has.
  static void expect_shares(const Histogram& shares, const std::vector<double>& expected,
                            double tolerance) {
    for (size_t label = 0; label < expected.size(); ++label) {
      EXPECT_NEAR(shares[label], expected[label], tolerance) << "label " << label;
    }
  }

  static std::vector<std::vector<uint8_t>> trees_;
  static std::vector<int> labels_;
  static uint64_t num_candidates_;
};

std::vector<std::vector<uint8_t>> ListopsStatistics::trees_;
std::vector<int> ListopsStatistics::labels_;
uint64_t ListopsStatistics::num_candidates_ = 0;

TEST_F(ListopsStatistics, OneCandidateInTwelveIsAccepted) {
  EXPECT_NEAR(static_cast<double>(num_candidates_) / kExamples, 12.08, 0.35);
}

TEST_F(ListopsStatistics, LengthsHaveThePublishedDistribution) {
  std::vector<double> x = lengths();
  const double n = static_cast<double>(x.size());
  const double mean = std::accumulate(x.begin(), x.end(), 0.0) / n;
  double variance = 0;
  for (double length : x) variance += (length - mean) * (length - mean) / n;
  EXPECT_NEAR(mean, 1035.4, 12);
  EXPECT_NEAR(std::sqrt(variance), 394.4, 8);
  std::sort(x.begin(), x.end());
  const auto quantile = [&](double q) { return x[static_cast<size_t>(q * n)]; };
  EXPECT_NEAR(quantile(0.05), 538, 6);
  EXPECT_NEAR(quantile(0.25), 702, 14);
  EXPECT_NEAR(quantile(0.50), 953, 20);
  EXPECT_NEAR(quantile(0.75), 1311, 25);
  EXPECT_NEAR(quantile(0.95), 1802, 25);
  EXPECT_GE(x.front(), 501);
  EXPECT_LE(x.back(), 1999);
}

TEST_F(ListopsStatistics, TreesHaveThePublishedShape) {
  double operators = 0;
  for (const auto& tree : trees_) {
    int depth = 1;
    int deepest_digit = 0;
    for (uint8_t token : tree) {
      if (token == kClose) --depth;
      if (token >= kMin && token <= kSm) ++depth, ++operators;
      if (token >= kDigit0) deepest_digit = std::max(deepest_digit, depth);
    }
    ASSERT_EQ(depth, 1);
    ASSERT_EQ(deepest_digit, 10);
  }
  EXPECT_NEAR(operators / kExamples, 147.3, 2);
}

TEST_F(ListopsStatistics, RootOperatorsAreEquallyLikely) {
  std::array<double, 5> count{};
  for (const auto& tree : trees_) ++count.at(tree[0]);
  for (uint8_t root = kMin; root <= kSm; ++root) {
    EXPECT_NEAR(count[root] / kExamples, 0.25, 0.0125) << "operator " << int{root};
  }
}

TEST_F(ListopsStatistics, LabelsHaveThePublishedShares) {
  expect_shares(label_shares(kPad),
                {.1694, .0901, .0772, .0822, .0905, .0868, .0763, .0723, .0872, .1679}, 0.011);
}

TEST_F(ListopsStatistics, LabelsGivenTheRootHaveThePublishedShares) {
  const std::vector<double> min = {.567, .216, .103, .053, .030};
  expect_shares(label_shares(kMin), min, 0.03);
  Histogram max = label_shares(kMax);
  std::reverse(max.begin(), max.end());
  expect_shares(max, min, 0.03);
  expect_shares(label_shares(kMed), {.011, .043, .101, .169, .214, .202, .141, .079, .032, .007},
                0.025);
  expect_shares(label_shares(kSm), {.1, .1, .1, .1, .1, .1, .1, .1, .1, .1}, 0.02);
}

TEST_F(ListopsStatistics, ExactDepthClimbsThePublishedLadder) {
  const std::array<double, 10> expected = {.362, .598, .741, .837, .899,
                                           .937, .960, .976, .986, 1.0};
  for (int depth = 0; depth < 10; ++depth) {
    int right = 0;
    for (size_t i = 0; i < kExamples; ++i) right += evaluate(trees_[i], depth) == labels_[i];
    const double accuracy = static_cast<double>(right) / kExamples;
    const double tolerance = depth == 9 ? 0 : depth <= 4 ? 0.015 : 0.008;
    EXPECT_NEAR(accuracy, expected[static_cast<size_t>(depth)], tolerance) << "depth " << depth;
  }
}

}  // namespace
}  // namespace stipple::data::listops
