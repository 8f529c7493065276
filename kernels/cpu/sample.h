// SPDX-License-Identifier: Apache-2.0
// Inside `sample_edges`: one problem as the samplers see it, and the hot loops that exist once per
// instruction set. All copies of a hot loop give the same bits: sums have a fixed order and every
// multiply-add is fused.
#pragma once

#include <cstdint>

#include "core/cpu/isa.h"
#include "core/range.h"
#include "core/rng.h"
#include "core/view.h"
#include "kernels/math/poisson.h"
#include "kernels/sbm.h"

namespace stipple::kernels::cpu {

/// One (sample, head).
struct SampleProblem {
  const float* mu = nullptr;            // [N, K]
  const float* z = nullptr;             // [M, K]
  const uint8_t* query_mask = nullptr;  // [N]; null: all real
  const uint8_t* key_mask = nullptr;    // [M]
  int64_t num_queries = 0;
  int64_t num_keys = 0;
  int64_t num_clusters = 0;
  MaskLaw law = MaskLaw::kBernoulli;
  float delta = 0.0f;
  bool self_loop = false;
  PhiloxKey key;
  uint32_t sample = 0;
  int layer = 0;
  int head = 0;

  bool is_real_query(int64_t i) const { return query_mask == nullptr || query_mask[i] != 0; }
  bool is_real_key(int64_t j) const { return key_mask == nullptr || key_mask[j] != 0; }
  bool has_self_loop(int64_t i) const { return self_loop && is_real_query(i) && is_real_key(i); }
  uint32_t stream(Purpose purpose) const { return stream_word(layer, head, purpose); }
};

/// Columns of the packed keys that the tile sampler works on at a time, at most.
inline constexpr int64_t kMaxPanel = 64;

/// Tile rows that wait as bits for their counts (law poisson_multi).
inline constexpr int64_t kCountedRowRun = 64;

/// Keys whose quantised weights are summed up in one step of the search.
inline constexpr int64_t kKeyBlock = 16;
inline int64_t num_key_blocks(int64_t num_keys) { return (num_keys + kKeyBlock - 1) / kKeyBlock; }

/// Running sums that are searched sixteen at a time: level 0 holds the sums, every entry of the
/// next level is the last of sixteen entries below it, until sixteen entries are left. All levels
/// lie in one array. Entries beyond the sums are kBeyond, so that no search ends there.
struct SumTree {
  static constexpr int64_t kFan = 8;
  static constexpr int64_t kMaxLevels = 10;
  static constexpr uint64_t kBeyond = ~uint64_t{0} >> 1;  // AVX2 compares signed

  explicit SumTree(int64_t count = 1) {
    for (int64_t entries = count; num_levels == 0 || entries > 1; ++num_levels) {
      first[num_levels] = size;
      entries = (entries + kFan - 1) / kFan;
      size += entries * kFan;
    }
  }

  /// `sums` has room for `size` entries, of which the first `count`, ascending, are there.
  void build(uint64_t* sums, int64_t count) const;

  int64_t num_levels = 0;
  int64_t size = 0;                ///< of all levels, in entries
  int64_t first[kMaxLevels] = {};  ///< entry of each level
};

/// The keys of one problem, ready to be drawn by weight within a cluster. Integers only: no drift,
/// and no key of weight 0 is ever selected. Memory 4.6 bytes per key and cluster.
struct KeyTables {
  int64_t num_clusters = 0;
  int64_t num_blocks = 0;
  SumTree tree;                         // of the blocks of one cluster
  int32_t* within = nullptr;            // [blocks, K, 16]  running sums of weights inside a block
  uint64_t* blocks = nullptr;           // [K, tree.size]   running sums of blocks
  const uint32_t* real_keys = nullptr;  // the keys that are not padding, ascending
  int64_t num_real_keys = 0;

  uint64_t total(int64_t cluster) const { return blocks[cluster * tree.size + num_blocks - 1]; }
};

/// What row i's draws need: the clusters' rates as running sums; entry K is exploration.
struct RowDraws {
  const KeyTables* tables = nullptr;
  SumTree rate_tree;                // of K + 1 entries
  const uint64_t* rates = nullptr;  // [rate_tree.size]
  PhiloxKey key;
  PhiloxCounter counter;  // word 0 numbers the draw
};

/// What accepting row i's candidates needs.
struct RowThinning {
  const float* mu = nullptr;  // [K]
  const float* z = nullptr;   // [M, K]
  int64_t num_clusters = 0;
  float delta = 0.0f;
  double oversampling =
      0.0;  ///< c; 0: the candidates are all keys, each is kept with probability p itself
  uint32_t certain = 0;  ///< candidates whose word is smaller are kept whatever their probability
  PhiloxKey key;
  PhiloxCounter counter;  // word 0 is the key
};

struct SampleKernels {
  /// sum of a[k] b[k]: product k goes to lane k % 16 by fused multiply-add, lanes are added as a
  /// tree.
  float (*dot)(const float* a, const float* b, int64_t n);
  /// One bit per pair of rows [begin, end): row-major, ceil(M / 32) words a row. `panel` has room
  /// for kMaxPanel x K floats.
  void (*tile_rows)(const SampleProblem&, Range rows, float* panel, uint32_t* bits);
  /// keys[e] = key of draw counter[0] + e.
  void (*draw_keys)(const RowDraws&, int64_t count, uint32_t* keys);
  /// Moves the accepted keys to the front, order kept; returns how many.
  int64_t (*thin)(const RowThinning&, uint32_t* keys, int64_t count);
};

extern const SampleKernels kSampleScalar;
extern const SampleKernels kSampleAvx2;
extern const SampleKernels kSampleAvx512;
const SampleKernels& sample_kernels();  ///< of the instruction set in force

/// The largest value by which a uniform word may be smaller: keep a pair with probability p where
/// (word >> 1) < floor(2^31 p), and always where p >= 1. 31 bits because AVX2 converts to signed
/// integers only.
inline constexpr float kKeepScale = 0x1p31f;

// --- selection of one draw, shared by all instruction sets
// ----------------------------------------

/// The number of the first sum that exceeds x. There is one.
[[gnu::always_inline]] inline int64_t first_above(const SumTree& tree, const uint64_t* sums,
                                                  uint64_t x) {
  int64_t at = 0;
  for (int64_t level = tree.num_levels - 1; level >= 0; --level) {
    const uint64_t* node = sums + tree.first[level] + at * SumTree::kFan;
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

[[gnu::always_inline]] inline BlockDraw explore(const KeyTables& tables, uint64_t uniform) {
  const uint64_t index = math::multiply_high(uniform, static_cast<uint64_t>(tables.num_real_keys));
  return {nullptr, 0, tables.real_keys[index]};
}

[[gnu::always_inline]] inline BlockDraw enter_block(const KeyTables& tables, int64_t cluster,
                                                    int64_t block, uint64_t x) {
  const uint64_t* blocks = tables.blocks + cluster * tables.tree.size;
  const uint64_t before = block == 0 ? 0 : blocks[block - 1];
  return {tables.within + (block * tables.num_clusters + cluster) * kKeyBlock,
          static_cast<int32_t>(x - before), static_cast<uint32_t>(block * kKeyBlock)};
}

/// Cluster number K is exploration: any real key alike.
[[gnu::always_inline]] inline BlockDraw find_block(const KeyTables& tables, int64_t cluster,
                                                   uint64_t uniform) {
  if (cluster == tables.num_clusters) return explore(tables, uniform);
  const uint64_t x = math::multiply_high(uniform, tables.total(cluster));
  const uint64_t* blocks = tables.blocks + cluster * tables.tree.size;
  return enter_block(tables, cluster, first_above(tables.tree, blocks, x), x);
}

[[gnu::always_inline]] inline uint32_t find_key(const BlockDraw& draw) {
  if (draw.within == nullptr) return draw.first_key;
  uint32_t smaller = 0;
  for (int64_t t = 0; t < kKeyBlock; ++t) smaller += draw.within[t] <= draw.rest ? 1 : 0;
  return draw.first_key + smaller;
}

}  // namespace stipple::kernels::cpu
