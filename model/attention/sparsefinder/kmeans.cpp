// SPDX-License-Identifier: Apache-2.0
#include "model/attention/sparsefinder/kmeans.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/rng.h"
#include "kernels/math/predict.h"

namespace stipple::model {
namespace {

/// Bits of the largest coordinate; fewer where so many points would not add up in 62.
constexpr int kGridBits = 42, kSumBits = 62;

double squared_distance(const float* a, const float* b, int64_t dim) {
  double sum = 0;
  for (int64_t e = 0; e < dim; ++e) {
    const double difference = static_cast<double>(a[e]) - static_cast<double>(b[e]);
    sum += difference * difference;
  }
  return sum;
}

/// In (0, 1), of a point and a choice; the same whichever rank asks.
double uniform(uint64_t seed, int64_t choice, int64_t number) {
  const auto n = static_cast<uint64_t>(number);
  const PhiloxCounter bits = philox4x32(
      {static_cast<uint32_t>(n), static_cast<uint32_t>(n >> 32), static_cast<uint32_t>(choice), 0},
      {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return to_unit_double(bits[0], bits[1]);
}

/// Non-negative numbers compare as their bits do.
int64_t ordered(double x) { return std::bit_cast<int64_t>(x); }

class Clustering {
 public:
  Clustering(const Points& points, const KmeansOptions& options, const Ranks& ranks)
      : points_(points),
        options_(options),
        ranks_(ranks),
        centroids_(static_cast<size_t>(options.clusters * points.dim)) {}

  std::vector<float> run() {
    find_grid();
    seed();
    std::vector<int64_t> assigned(static_cast<size_t>(points_.count()), -1);
    for (int64_t round = 0; round < options_.most_rounds; ++round)
      if (!assign(assigned)) break;
    return centroids_;
  }

 private:
  float* centroid(int64_t c) { return centroids_.data() + c * points_.dim; }

  /// A power of two by which coordinates become integers, the same on all ranks.
  void find_grid() {
    double largest = 0;
    for (const float x : points_.values) {
      STIPPLE_CHECK(std::isfinite(x), "kmeans: a point is no number");
      largest = std::max(largest, std::abs(static_cast<double>(x)));
    }
    std::vector<int64_t> told = {points_.count()};
    ranks_.sum(told);
    STIPPLE_CHECK(told[0] > 0, "kmeans: there are no points");
    std::vector<int64_t> negative = {-ordered(largest)};
    ranks_.smallest(negative);
    const double of_all = std::bit_cast<double>(-negative[0]);
    const int bits = std::min(
        kGridBits, kSumBits - static_cast<int>(std::bit_width(static_cast<uint64_t>(told[0]))));
    grid_ = bits - (of_all > 0 ? std::ilogb(of_all) + 1 : 0);
  }

  /// The point of the smallest key, of lower number where keys are equal, becomes centroid c. A key
  /// below 0: the point takes no part.
  template <class Key>
  bool take_point(int64_t c, const Key& key) {
    constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
    int64_t best = -1;
    std::vector<int64_t> least = {kNone};
    for (int64_t i = 0; i < points_.count(); ++i) {
      const double own = key(i);
      if (own < 0 || ordered(own) >= least[0]) continue;
      least[0] = ordered(own);
      best = i;
    }
    const int64_t own_least = least[0];
    ranks_.smallest(least);
    if (least[0] == kNone) return false;
    std::vector<int64_t> number = {own_least == least[0] ? points_.first_number + best : kNone};
    const int64_t own_number = number[0];
    ranks_.smallest(number);
    std::vector<int64_t> bits(static_cast<size_t>(points_.dim));
    if (own_number == number[0]) {
      for (size_t e = 0; e < bits.size(); ++e)
        bits[e] = std::bit_cast<int32_t>(points_.at(best)[e]);
    }
    ranks_.sum(bits);
    for (size_t e = 0; e < bits.size(); ++e)
      centroid(c)[e] = std::bit_cast<float>(static_cast<int32_t>(bits[e]));
    return true;
  }

  /// k-means++: each next centroid is a point drawn by its squared distance to those chosen. Drawn as
  /// the earliest of exponential arrivals with these rates, which needs no running sum over ranks.
  void seed() {
    std::vector<double> distance(static_cast<size_t>(points_.count()), 1.0);
    for (int64_t c = 0; c < options_.clusters; ++c) {
      const bool is_found = take_point(c, [&](int64_t i) {
        const double rate = distance[static_cast<size_t>(i)];
        if (rate == 0) return -1.0;
        return -std::log(uniform(options_.seed, c, points_.first_number + i)) / rate;
      });
      // Every point is a centroid already.
      if (!is_found) std::copy_n(centroid(0), points_.dim, centroid(c));
      for (int64_t i = 0; i < points_.count(); ++i) {
        const double to_new = squared_distance(points_.at(i), centroid(c), points_.dim);
        double& nearest_so_far = distance[static_cast<size_t>(i)];
        nearest_so_far = c == 0 ? to_new : std::min(nearest_so_far, to_new);
      }
    }
  }

  /// Points go to their nearest centroids, which move to their means. Whether any point of any rank
  /// went elsewhere.
  bool assign(std::vector<int64_t>& assigned) {
    const auto stride = static_cast<size_t>(points_.dim + 1);
    const auto clusters = static_cast<size_t>(options_.clusters);
    std::vector<int64_t> sums(clusters * stride + 1);  // by cluster: coordinates, size; moves
    for (int64_t i = 0; i < points_.count(); ++i) {
      const int64_t c = nearest(points_.at(i), centroids_, points_.dim);
      int64_t* own = &sums[static_cast<size_t>(c) * stride];
      for (int64_t e = 0; e < points_.dim; ++e)
        own[e] += std::llrint(std::ldexp(static_cast<double>(points_.at(i)[e]), grid_));
      ++own[points_.dim];
      int64_t& before = assigned[static_cast<size_t>(i)];
      if (before != c) ++sums.back();
      before = c;
    }
    ranks_.sum(sums);
    if (sums.back() == 0) return false;
    for (size_t c = 0; c < clusters; ++c) {
      const int64_t* own = &sums[c * stride];
      const int64_t size = own[points_.dim];
      if (size == 0) continue;
      for (int64_t e = 0; e < points_.dim; ++e)
        centroid(static_cast<int64_t>(c))[e] = static_cast<float>(
            std::ldexp(static_cast<double>(own[e]) / static_cast<double>(size), -grid_));
      if (options_.is_spherical) to_length_one({centroid(static_cast<int64_t>(c)), stride - 1});
    }
    return true;
  }

  const Points& points_;
  const KmeansOptions& options_;
  const Ranks& ranks_;
  std::vector<float> centroids_;
  int grid_ = 0;
};

}  // namespace

void to_length_one(std::span<float> x) {
  double squares = 0;
  for (const float value : x) squares += static_cast<double>(value) * static_cast<double>(value);
  if (squares == 0) return;
  for (float& value : x)
    value = static_cast<float>(static_cast<double>(value) / std::sqrt(squares));
}

std::vector<float> kmeans(const Points& points, const KmeansOptions& options, const Ranks& ranks) {
  STIPPLE_CHECK(points.dim > 0 && options.clusters > 0, "kmeans: ", options.clusters,
                " clusters in ", points.dim, " dimensions");
  return Clustering(points, options, ranks).run();
}

int64_t nearest(const float* x, std::span<const float> centroids, int64_t dim) {
  uint64_t best = std::numeric_limits<uint64_t>::max();
  const int64_t count = static_cast<int64_t>(centroids.size()) / dim;
  for (int64_t c = 0; c < count; ++c)
    best = std::min(best, kernels::math::centroid_key(x, centroids.data() + c * dim, dim, c));
  return kernels::math::centroid_of(best);
}

double occupancy_entropy(std::span<const int64_t> sizes) {
  double total = 0, entropy = 0;
  for (const int64_t size : sizes) total += static_cast<double>(size);
  for (const int64_t size : sizes) {
    if (size == 0) continue;
    const double share = static_cast<double>(size) / total;
    entropy -= share * std::log(share);
  }
  return sizes.size() > 1 ? entropy / std::log(static_cast<double>(sizes.size())) : 1.0;
}

}  // namespace stipple::model
