// SPDX-License-Identifier: Apache-2.0
// Lloyd's k-means with k-means++ seeding (Arthur and Vassilvitskii, SODA 2007) of points that may be
// spread over ranks, on the host. The result is a function of the points, their numbers and the
// seed, to the bit, however the points are spread: coordinates are added as integers on a grid that
// all ranks share, and ties go to the lower number.
//
//   const std::vector<float> centroids = kmeans({.values = x, .dim = 4}, {.clusters = 16}, alone);
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace stipple::model {

/// What ranks that cluster together tell each other. All call the same functions in the same order;
/// every rank gets the result in place.
class Ranks {
 public:
  virtual ~Ranks() = default;
  virtual void sum(std::span<int64_t>) const {}
  virtual void smallest(std::span<int64_t>) const {}
};

/// This rank's points. Numbers differ among all points of all ranks.
struct Points {
  std::span<const float> values;  // [count, dim]
  int64_t dim = 1;
  int64_t first_number = 0;  ///< of the first point; the others follow

  int64_t count() const { return static_cast<int64_t>(values.size()) / dim; }
  const float* at(int64_t i) const { return values.data() + i * dim; }
};

struct KmeansOptions {
  int64_t clusters = 16;
  int64_t most_rounds = 50;  ///< of Lloyd, which ends earlier where no point moves
  uint64_t seed = 0;
  /// Of points of length 1: centroids are brought to that length whenever they move, so that who is
  /// near has a small angle (Dhillon and Modha, 2001).
  bool is_spherical = false;
};

/// Centroids [clusters, dim]. A cluster that loses all its points stays where it is. With fewer
/// different points than clusters some centroids are equal, of which the first has the points.
/// O(rounds count clusters dim). Error where there is no point, or one that is no number.
std::vector<float> kmeans(const Points&, const KmeansOptions&, const Ranks&);

/// Unless it is 0.
void to_length_one(std::span<float>);

/// The nearest of centroids [clusters, dim], as kernels::nearest_groups has it.
int64_t nearest(const float* x, std::span<const float> centroids, int64_t dim);

/// The entropy of how points are spread over clusters, as a share of that of equal sizes: 1 where all
/// are equal, 0 where one has everything. One cluster: 1.
double occupancy_entropy(std::span<const int64_t> sizes);

}  // namespace stipple::model
