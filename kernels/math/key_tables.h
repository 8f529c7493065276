// SPDX-License-Identifier: Apache-2.0
// What the row sampler draws from, shared by both backends: weights and rates as integers, running
// sums of rates in which a draw finds its cluster, and the clusters' alias tables in which it finds
// its key. Integers only: no drift, every order of summation gives the same numbers, and no key of
// weight 0 is ever selected.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/host_device.h"
#include "kernels/math/alias_table.h"
#include "kernels/math/poisson.h"

namespace stipple::kernels::math {

/// Running sums that are searched eight at a time: level 0 holds the sums, every entry of the next
/// level is the last of eight entries below it, until eight entries are left. All levels lie in one
/// array. Entries beyond the sums are kBeyond, so that no search ends there.
struct SumTree {
  static constexpr int64_t kFan = 8;
  static constexpr int64_t kMaxLevels = 10;
  static constexpr uint64_t kBeyond = ~uint64_t{0} >> 1;  // AVX2 compares signed

  SumTree() : SumTree(1) {}
  explicit SumTree(int64_t sums) : count(sums) {
    for (int64_t entries = count; num_levels == 0 || entries > 1; ++num_levels) {
      first[num_levels] = size;
      size += level_size(num_levels);
      entries = level_size(num_levels) / kFan;
    }
  }

  /// In entries, whole nodes of kFan.
  STIPPLE_HD int64_t level_size(int64_t level) const {
    const int64_t below = int64_t{1} << (3 * (level + 1));
    return (count + below - 1) / below * kFan;
  }

  /// `sums` has room for `size` entries, of which the first `count`, ascending, are there.
  void build(uint64_t* sums) const {
    std::fill(sums + count, sums + size, kBeyond);
    for (int64_t level = 1; level < num_levels; ++level) {
      const uint64_t* below = sums + first[level - 1];
      const int64_t nodes = level_size(level - 1) / kFan;
      for (int64_t e = 0; e < nodes; ++e) sums[first[level] + e] = below[e * kFan + kFan - 1];
    }
  }

  int64_t count = 0;
  int64_t num_levels = 0;
  int64_t size = 0;                ///< of all levels, in entries
  int64_t first[kMaxLevels] = {};  ///< entry of each level
};

/// The number of the first sum that exceeds x. There is one.
STIPPLE_HD [[gnu::always_inline]] inline int64_t first_above(const SumTree& tree,
                                                             const uint64_t* sums, uint64_t x) {
  int64_t at = 0;
  int64_t first = tree.size;  // no look into tree.first, which a GPU would have to keep in memory
  for (int64_t level = tree.num_levels - 1; level >= 0; --level) {
    first -= tree.level_size(level);
    const uint64_t* node = sums + first + at * SumTree::kFan;
    at *= SumTree::kFan;
    for (int64_t t = 0; t < SumTree::kFan; ++t) at += node[t] <= x ? 1 : 0;
  }
  return at;
}

// --- weights and rates as integers

/// Of a quantised weight, which is at most 2^bits: 26 for up to 2^18 keys, two less for every
/// doubling beyond. So n^2 weights, which bound the sums of deficits in an alias table, stay below
/// 2^63, n of them are exact as a double, and those of a warp fit into 32 bits.
STIPPLE_HD constexpr int weight_bits(int64_t num_keys) {
  constexpr int kMostBits = 26;
  constexpr int kFewestBits = 2;
  int bits = kMostBits;
  for (int64_t keys = int64_t{1} << 18; keys < num_keys && bits > kFewestBits; keys *= 2) bits -= 2;
  return bits;
}

/// The power of two above the largest weight: what the weights are fractions of.
STIPPLE_HD inline int weight_exponent(float zmax) {
  int exponent = 0;
  std::frexp(zmax, &exponent);
  constexpr int kLowest = -90;  // below, the scale would not be a finite float
  return exponent > kLowest ? exponent : kLowest;
}
STIPPLE_HD inline float weight_scale(float zmax, int bits) {
  return std::ldexp(1.0f, bits - weight_exponent(zmax));
}
/// NaN counts as 0, infinity as 2^bits. The scale is a power of two: a fused multiply-add rounds to
/// the same value.
STIPPLE_HD [[gnu::always_inline]] inline int32_t fixed_weight(float z, float scale, int bits) {
  const auto largest = static_cast<float>(int32_t{1} << bits);
  const float weight = (z > 0.0f ? z : 0.0f) * scale + 0.5f;
  return static_cast<int32_t>(weight < largest ? weight : largest);
}
/// A cluster's sum of weights, scaled so that times mu_iv it is a fixed-point rate.
STIPPLE_HD inline double cluster_rate(uint64_t total, float zmax, int bits) {
  return std::ldexp(static_cast<double>(total),
                    weight_exponent(zmax) - bits + PoissonTerms::kRateBits);
}

/// A rate as a fixed-point number; NaN as 0.
STIPPLE_HD [[gnu::always_inline]] inline uint64_t fixed_rate(double scaled) {
  constexpr double kLargest = 0x1p57;
  scaled = scaled > 0.0 ? scaled : 0.0;
  scaled = scaled < kLargest ? scaled : kLargest;
  return static_cast<uint64_t>(static_cast<int64_t>(scaled));
}
/// Of exploration: every real key alike with rate delta.
STIPPLE_HD inline uint64_t exploration_rate(float delta, int64_t num_real_keys) {
  return fixed_rate(static_cast<double>(delta) * static_cast<double>(num_real_keys) *
                    static_cast<double>(uint64_t{1} << PoissonTerms::kRateBits));
}

// --- draws

/// Of one problem, ready to be drawn from. Cluster number K is exploration: any real key alike.
struct KeyTables {
  int64_t num_clusters = 0;  ///< K
  int64_t num_keys = 0;      ///< up to the last real one, so that more padding changes no draw
  const AliasEntry* entries = nullptr;  // [K + 1, num_keys]

  STIPPLE_HD const AliasEntry* of(int64_t cluster) const { return entries + cluster * num_keys; }
};

/// The key of a draw with the four words of its Philox block: the first two choose the cluster by
/// `rates`, running sums of K + 1 rates, the others the key.
STIPPLE_HD [[gnu::always_inline]] inline uint32_t draw_key(const KeyTables& tables,
                                                           const SumTree& rate_tree,
                                                           const uint64_t* rates,
                                                           const PhiloxCounter& words) {
  const uint64_t total = rates[tables.num_clusters];
  const uint64_t x = multiply_high(uint64_t{words[0]} << 32 | words[1], total);
  const int64_t cluster = first_above(rate_tree, rates, x);
  return draw_item(tables.of(cluster), tables.num_keys, uint64_t{words[2]} << 32 | words[3]);
}

}  // namespace stipple::kernels::math
