// SPDX-License-Identifier: Apache-2.0
#include "model/attention/sparsefinder/kmeans.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <barrier>
#include <cmath>
#include <limits>
#include <thread>

#include "core/error.h"
#include "tests/support/arrays.h"

namespace stipple::model {
namespace {

const Ranks kAlone;

/// Ranks that are threads.
class ThreadRanks final : public Ranks {
 public:
  explicit ThreadRanks(std::ptrdiff_t count) : all_(count) {}
  void sum(std::span<int64_t> values) const override {
    exchange(values, [](int64_t a, int64_t b) { return a + b; });
  }
  void smallest(std::span<int64_t> values) const override {
    exchange(values, [](int64_t a, int64_t b) { return std::min(a, b); });
  }

 private:
  template <class Unite>
  void exchange(std::span<int64_t> values, const Unite& unite) const {
    {
      const std::lock_guard lock(mutex_);
      if (united_.empty()) {
        united_.assign(values.begin(), values.end());
      } else {
        for (size_t e = 0; e < values.size(); ++e) united_[e] = unite(united_[e], values[e]);
      }
    }
    all_.arrive_and_wait();
    std::copy(united_.begin(), united_.end(), values.begin());
    all_.arrive_and_wait();
    {
      const std::lock_guard lock(mutex_);
      united_.clear();
    }
    all_.arrive_and_wait();
  }
  mutable std::barrier<> all_;
  mutable std::mutex mutex_;
  mutable std::vector<int64_t> united_;
};

/// The centroids that each of these shares of the points, one a rank, ends with.
std::vector<std::vector<float>> spread(std::span<const float> values, int64_t dim,
                                       const std::vector<int64_t>& counts,
                                       const KmeansOptions& options) {
  const ThreadRanks ranks(static_cast<std::ptrdiff_t>(counts.size()));
  std::vector<std::vector<float>> results(counts.size());
  std::vector<std::thread> threads;
  int64_t first = 0;
  for (size_t rank = 0; rank < counts.size(); ++rank) {
    const Points own{.values = values.subspan(static_cast<size_t>(first * dim),
                                              static_cast<size_t>(counts[rank] * dim)),
                     .dim = dim,
                     .first_number = first};
    first += counts[rank];
    threads.emplace_back([&, own, rank] { results[rank] = kmeans(own, options, ranks); });
  }
  for (std::thread& thread : threads) thread.join();
  return results;
}

TEST(Kmeans, FindsClustersThatAreFarApart) {
  const float centers[] = {0, 0, 10, 0, 0, 10, 10, 10};
  test::Array<float> points = test::random_normal({200, 2}, 1, 0.5);
  for (int64_t i = 0; i < 200; ++i) {
    for (int64_t e = 0; e < 2; ++e) points[i * 2 + e] += centers[i % 4 * 2 + e];
  }
  const std::vector<float> found =
      kmeans({.values = points.values(), .dim = 2}, {.clusters = 4, .seed = 3}, kAlone);
  for (int64_t c = 0; c < 4; ++c) {
    const int64_t own = nearest(centers + c * 2, found, 2);
    double mean[2] = {0, 0};
    for (int64_t i = c; i < 200; i += 4)
      for (int64_t e = 0; e < 2; ++e) mean[e] += static_cast<double>(points[i * 2 + e]) / 50;
    for (int64_t e = 0; e < 2; ++e)
      EXPECT_NEAR(static_cast<double>(found[static_cast<size_t>(own * 2 + e)]), mean[e], 1e-5);
  }
}

TEST(Kmeans, HasTheSameBitsHoweverPointsAreSpreadOverRanks) {
  test::Array<float> points = test::random_normal({90, 3}, 2);
  // Some are equal, so that ties are met in choosing and in assigning.
  for (int64_t i = 60; i < 90; ++i)
    for (int64_t e = 0; e < 3; ++e) points[i * 3 + e] = points[(i % 7) * 3 + e];
  const KmeansOptions options{.clusters = 8, .seed = 5};
  const std::vector<float> alone = kmeans({.values = points.values(), .dim = 3}, options, kAlone);
  for (const std::vector<int64_t>& counts :
       std::vector<std::vector<int64_t>>{{90}, {45, 45}, {1, 89}, {90, 0}, {20, 40, 30}}) {
    for (const auto& result : spread(points.values(), 3, counts, options)) EXPECT_EQ(result, alone);
  }
}

TEST(Kmeans, AnotherSeedChoosesOtherPoints) {
  const test::Array<float> points = test::random_normal({90, 3}, 2);
  const Points all{.values = points.values(), .dim = 3};
  const KmeansOptions none{.clusters = 8, .most_rounds = 0};
  KmeansOptions other = none;
  other.seed = 1;
  EXPECT_NE(kmeans(all, none, kAlone), kmeans(all, other, kAlone));
  EXPECT_EQ(kmeans(all, none, kAlone), kmeans(all, none, kAlone));
}

TEST(Kmeans, FewerPointsThanClustersLeaveEqualOnes) {
  const std::vector<float> two = {1, 2, 3, 4};
  const std::vector<float> found = kmeans({.values = two, .dim = 2}, {.clusters = 5}, kAlone);
  ASSERT_EQ(found.size(), 10u);
  for (size_t c = 2; c < 5; ++c) {
    EXPECT_EQ(found[c * 2], found[0]);
    EXPECT_EQ(found[c * 2 + 1], found[1]);
  }
  EXPECT_NE(nearest(two.data(), found, 2), nearest(two.data() + 2, found, 2));
}

TEST(Kmeans, RefusesWhatIsNoPoint) {
  const std::vector<float> bad = {1, std::numeric_limits<float>::quiet_NaN()};
  EXPECT_THROW(kmeans({.values = bad, .dim = 2}, {.clusters = 1}, kAlone), Error);
  EXPECT_THROW(kmeans({.values = {}, .dim = 2}, {.clusters = 1}, kAlone), Error);
}

TEST(OccupancyEntropy, IsAShareOfThatOfEqualSizes) {
  EXPECT_NEAR(occupancy_entropy(std::vector<int64_t>{5, 5, 5, 5}), 1.0, 1e-12);
  EXPECT_EQ(occupancy_entropy(std::vector<int64_t>{0, 7, 0}), 0.0);
  EXPECT_NEAR(occupancy_entropy(std::vector<int64_t>{3, 1}), 0.811278, 1e-6);
  EXPECT_EQ(occupancy_entropy(std::vector<int64_t>{9}), 1.0);
}

TEST(Kmeans, SphericalCentroidsHaveLengthOneAndTheDirectionOfTheirPointsSum) {
  test::Array<float> x = test::random_normal({400, 3}, 5);
  for (int64_t i = 0; i < 400; ++i) to_length_one({&x[i * 3], 3});
  const Points points{.values = x.values(), .dim = 3};
  const std::vector<float> centroids =
      kmeans(points, {.clusters = 5, .seed = 2, .is_spherical = true}, kAlone);
  std::vector<double> sums(15);
  for (int64_t i = 0; i < 400; ++i) {
    const int64_t c = nearest(points.at(i), centroids, 3);
    for (int64_t e = 0; e < 3; ++e)
      sums[static_cast<size_t>(c * 3 + e)] += static_cast<double>(points.at(i)[e]);
  }
  for (size_t c = 0; c < 15; c += 3) {
    const double length =
        std::sqrt(sums[c] * sums[c] + sums[c + 1] * sums[c + 1] + sums[c + 2] * sums[c + 2]);
    for (size_t e = c; e < c + 3; ++e)
      EXPECT_NEAR(static_cast<double>(centroids[e]), sums[e] / length, 1e-5);
  }
}

}  // namespace
}  // namespace stipple::model
