// SPDX-License-Identifier: Apache-2.0
// Integer tables from which the row sampler draws keys by weight, and the searches in them, shared
// by both backends. Integers only: no drift, every order of summation gives the same numbers, and
// no key of weight 0 is ever selected.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/host_device.h"
#include "kernels/math/poisson.h"

namespace stipple::kernels::math {

/// Keys whose quantised weights are summed up in one step of the search.
inline constexpr int64_t kKeyBlock = 16;
STIPPLE_HD constexpr int64_t num_key_blocks(int64_t num_keys) {
  return (num_keys + kKeyBlock - 1) / kKeyBlock;
}

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

/// The keys of one problem, ready to be drawn by weight within a cluster. Memory 4.6 bytes per key
/// and cluster.
struct KeyTables {
  int64_t num_clusters = 0;
  int64_t num_blocks = 0;
  SumTree tree;                         // of the blocks of one cluster
  int32_t* within = nullptr;            // [blocks, K, 16]  running sums of weights inside a block
  uint64_t* blocks = nullptr;           // [K, tree.size]   running sums of blocks
  const uint32_t* real_keys = nullptr;  // the keys that are not padding, ascending
  int64_t num_real_keys = 0;

  STIPPLE_HD uint64_t total(int64_t cluster) const {
    return blocks[cluster * tree.size + num_blocks - 1];
  }
};

// --- weights and rates as integers

// Sixteen weights of 27 bits stay below 2^31, so running sums inside a block are signed 32-bit
// integers.
inline constexpr int kWeightBits = 27;

/// The power of two above the largest weight: what the weights are fractions of.
STIPPLE_HD inline int weight_exponent(float zmax) {
  int exponent = 0;
  std::frexp(zmax, &exponent);
  constexpr int kLowest = -90;  // below, the scale would not be a finite float
  return exponent > kLowest ? exponent : kLowest;
}
STIPPLE_HD inline float weight_scale(float zmax) {
  return std::ldexp(1.0f, kWeightBits - weight_exponent(zmax));
}
/// NaN counts as 0. The scale is a power of two: a fused multiply-add rounds to the same value.
STIPPLE_HD [[gnu::always_inline]] inline int32_t fixed_weight(float z, float scale) {
  const float weight = z > 0.0f ? z : 0.0f;
  return static_cast<int32_t>(weight * scale + 0.5f);
}
/// A cluster's sum of weights, scaled so that times mu_iv it is a fixed-point rate.
STIPPLE_HD inline double cluster_rate(uint64_t total, float zmax) {
  return std::ldexp(static_cast<double>(total),
                    weight_exponent(zmax) - kWeightBits + PoissonTerms::kRateBits);
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

// --- selection of one draw

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

/// Where a draw has come to: the running sums of one block of keys, and how far into them it falls.
struct BlockDraw {        // left uninitialised: arrays of these are filled right after
  const int32_t* within;  ///< null: exploration, which gives the key at once
  int32_t rest;
  uint32_t first_key;
};

STIPPLE_HD [[gnu::always_inline]] inline BlockDraw explore(const KeyTables& tables,
                                                           uint64_t uniform) {
  const uint64_t index = multiply_high(uniform, static_cast<uint64_t>(tables.num_real_keys));
  return {nullptr, 0, tables.real_keys[index]};
}

STIPPLE_HD [[gnu::always_inline]] inline BlockDraw enter_block(const KeyTables& tables,
                                                               int64_t cluster, int64_t block,
                                                               uint64_t x) {
  const uint64_t* blocks = tables.blocks + cluster * tables.tree.size;
  const uint64_t before = block == 0 ? 0 : blocks[block - 1];
  return {tables.within + (block * tables.num_clusters + cluster) * kKeyBlock,
          static_cast<int32_t>(x - before), static_cast<uint32_t>(block * kKeyBlock)};
}

/// Cluster number K is exploration: any real key alike.
STIPPLE_HD [[gnu::always_inline]] inline BlockDraw find_block(const KeyTables& tables,
                                                              int64_t cluster, uint64_t uniform) {
  if (cluster == tables.num_clusters) return explore(tables, uniform);
  const uint64_t x = multiply_high(uniform, tables.total(cluster));
  const uint64_t* blocks = tables.blocks + cluster * tables.tree.size;
  return enter_block(tables, cluster, first_above(tables.tree, blocks, x), x);
}

STIPPLE_HD [[gnu::always_inline]] inline uint32_t find_key(const BlockDraw& draw) {
  if (draw.within == nullptr) return draw.first_key;
  uint32_t smaller = 0;
  for (int64_t t = 0; t < kKeyBlock; ++t) smaller += draw.within[t] <= draw.rest ? 1 : 0;
  return draw.first_key + smaller;
}

/// The key of a draw with the four words of its Philox block: the first two choose the cluster by
/// `rates`, running sums of K + 1 rates, the others the key.
STIPPLE_HD [[gnu::always_inline]] inline uint32_t draw_key(const KeyTables& tables,
                                                           const SumTree& rate_tree,
                                                           const uint64_t* rates,
                                                           const PhiloxCounter& words) {
  const uint64_t total = rates[tables.num_clusters];
  const uint64_t x = multiply_high(uint64_t{words[0]} << 32 | words[1], total);
  const int64_t cluster = first_above(rate_tree, rates, x);
  return find_key(find_block(tables, cluster, uint64_t{words[2]} << 32 | words[3]));
}

}  // namespace stipple::kernels::math
