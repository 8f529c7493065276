// SPDX-License-Identifier: Apache-2.0
// The kernel of attend_tiles_backward: flash style on tensor cores, with the straight-through
// gradient fused. Written twice, by query (dq, row_grad) and by key (dk, dv, column_grad): each
// owns what it writes, so there are no atomics and the bits are the same every time. Method: Dao
// 2023 (arXiv 2307.08691), split by owner.
//
// A block of a persistent grid takes kRowsPerBlock rows after the other, those with the longest
// lists first; a warp has 16 or 32 of them, and the block walks over the list of tiles of 64
// columns that hold an edge. In each step of 16 or 32 columns a warp forms scores and dout . v,
// turns them in registers into ds, weights and dp, and multiplies these, as left operands, with the
// same rows of the tile: one barrier a tile, the next tile arrives meanwhile (bf16).
//
// Nothing spills on sm_90 but one register of one instance of fp32. Registers (bf16, most of sm_80,
// 90, 100, nvcc 13), shared memory and warps of an SM, for K = 128:
//   D = 64: by query 254, 68 KiB, 8; by key 255, 69 KiB, 8
//   D = 32: by query 240, 52 KiB, 8; by key 250, 53 KiB, 8
// Per pair: by query 6 D + 2 K flops, by key 8 D + 2 K, one exp each; from shared memory a fragment
// of 16 x 16 serves 16 rows (or 32): (3 D + K) / 8 + (4 D + K) / 8 = 88 bytes at D = 64, 60 at
// D = 32; from L2 (2 D + K) / 64 + 1 / 4 bytes each.
// HBM: bits by query and by key; q, k, v, dout and, by the other owner, again; z and y; dq, dk, dv,
// row_grad, column_grad: (N M / 4 + 2 (11 D + 4 K) N) bytes a problem, 3.6 GB below (D = 32: 2.9).
// Predicted, not measured, for B * H = 256, N = 4096, K = 128 on an H200: shared memory 11.4 ms
// (D = 32: 7.8), tensor cores by mma.sync 9.8 (6.7), issue 9.7 (69 warp instructions for 32 pairs,
// launch/kernel_report.sh), L2 3.8 (2.9), HBM 0.9 (0.7); at 70 % of the hardest limit 16 ms (11).
#pragma once

#include <algorithm>
#include <limits>

#include "core/copy.h"
#include "kernels/cuda/attend/tiles_backward.cuh"
#include "kernels/cuda/device.cuh"

namespace stipple::kernels::cuda::tiles_backward {

/// Four words: 128 columns of a row in BitOrder::kLanes.
constexpr int kBytesOfBits = 16;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Columns of a row in registers, with which nothing spills.
constexpr int kMostOfTwoGroups = 192;
constexpr int kMostOfWideSteps = 256;
constexpr int kMostOfOneWarp = 128;

/// One instance of the kernel. kClusters: how many clusters it takes on, 0 none. kDrops: there is
/// dropout.
template <class T, Owner owner, int dim, int clusters, bool drops>
struct Config {
  using Element = T;
  static constexpr bool kByKey = owner == Owner::kKey;
  static constexpr bool kDrops = drops;
  static constexpr int kDim = dim;
  static constexpr int kClusters = clusters;

  static constexpr bool kIsBf16 = sizeof(T) == 2;
  static constexpr bool kHoldsRows = kIsBf16 && dim <= 64;
  /// Columns of the sums that a warp keeps for each of its rows.
  static constexpr int kSummed = (kByKey ? 2 : 1) * dim + clusters;
  // Two groups of 16 rows load half as much from shared memory for each product, where the
  // registers suffice.
  static constexpr int kGroups =
      kHoldsRows && kSummed + 2 * dim + (kByKey ? 16 : 0) <= kMostOfTwoGroups ? 2 : 1;
  static constexpr int kStep =
      kHoldsRows && kGroups == 1 && kSummed + dim + (kByKey ? 16 : 0) <= kMostOfWideSteps ? 32 : 16;
  // Where registers do not suffice, two warps have the same rows, and each half of the columns.
  static constexpr int kSplits = !kIsBf16 && kSummed > kMostOfOneWarp ? 2 : 1;
  static constexpr int kWarps = kRowsPerBlock<T> / (16 * kGroups) * kSplits;
  static constexpr int kThreads = kWarps * kWarpSize;
  static constexpr int kWarpRows = 16 * kGroups;
  static constexpr int kRows = kRowsPerBlock<T>;
  static constexpr int kStages = kIsBf16 ? 2 : 1;

  using RowsTile = SharedTile<T, kRows, dim>;
  using LoopTile = SharedTile<T, kTileColumns, dim>;
  using ClusterTile = SharedTile<T, kTileColumns, std::max(clusters, 16)>;
  using Held =
      std::conditional_t<kHoldsRows, HeldRows<T, kGroups, dim>, RowsInShared<T, kRows, dim>>;
  static constexpr int kSplitDim = dim / kSplits;
  static constexpr int kSplitClusters = clusters / kSplits;
  using MainSums = Sums<kGroups, kSplitDim>;
  using ClusterSums = Sums<kGroups, std::max(kSplitClusters, 8)>;
  using StepSums = Sums<kGroups, kStep>;

  __device__ static int first_row_of_warp() { return warp_index() / kSplits * kWarpRows; }
  __device__ static int split() { return kSplits == 1 ? 0 : warp_index() % kSplits; }

  static constexpr int kTermBytes = kByKey ? kTileColumns * static_cast<int>(sizeof(float2)) : 0;
  static constexpr int kBitBytes = kRows * kBytesOfBits;
  static constexpr int kKeptBytes = kDrops ? kBitBytes : 0;
  static constexpr int kStageBytes = 2 * LoopTile::kBytes +
                                     (clusters > 0 ? ClusterTile::kBytes : 0) + kTermBytes +
                                     kKeptBytes + kBitBytes + kBytesOfBits;
  static constexpr int kPipelineBytes = kStages * kStageBytes;
  static constexpr int kRowsBytes = 2 * RowsTile::kBytes;
  // Held rows pass through the memory of the stages.
  static constexpr int kQueueAt =
      kHoldsRows ? std::max(kRowsBytes, kPipelineBytes) : kRowsBytes + kPipelineBytes;
  static constexpr int kSharedBytes = kQueueAt + TileQueue::kSharedBytes;
  static_assert(kSharedBytes <= 163 << 10, "sm_80 has no more");

  /// As far as registers go; shared memory differs between devices (persistent_grid).
  static constexpr int kBlocksPerSm = kWarps == 8 ? 1 : (kSummed <= 32 ? 3 : 2);
};

// --- one tile ------------------------------------------------------------------------------------

/// A tile of the looped side in shared memory, with the bits of the block's rows against it.
template <class C>
struct Stage {
  using T = typename C::Element;
  typename C::LoopTile operands[2];
  typename C::ClusterTile memberships;
  float2* terms;
  uint32_t* kept;   ///< [kRows, 4] by dropout, where they are kept
  uint32_t* bits;   ///< [kRows, 4]
  uint32_t* valid;  ///< [4]

  __device__ explicit Stage(std::byte* memory)
      : operands{typename C::LoopTile(memory), typename C::LoopTile(memory + C::LoopTile::kBytes)},
        memberships(memory + 2 * C::LoopTile::kBytes) {
    std::byte* end = memory + C::kStageBytes - kBytesOfBits;
    valid = reinterpret_cast<uint32_t*>(end);
    bits = reinterpret_cast<uint32_t*>(end - C::kBitBytes);
    kept = reinterpret_cast<uint32_t*>(end - C::kBitBytes - C::kKeptBytes);
    terms = reinterpret_cast<float2*>(end - C::kBitBytes - C::kKeptBytes - C::kTermBytes);
  }

  __device__ void copy(const Side<T>& side, const Common& common, const TileItem& item,
                       int tile) const {
    const int64_t count = side.pairs.num_columns;
    const int64_t first = int64_t{tile} * kTileColumns;
#pragma unroll
    for (int x = 0; x < 2; ++x) {
      copy_tile_async<C::kThreads>(operands[x], side.columns[x] + item.problem * count * C::kDim,
                                   first, count);
    }
    if constexpr (C::kClusters > 0) {
      copy_columns_async<C::kThreads, 0>(
          memberships, side.memberships + item.problem * count * side.membership_pitch, first,
          count, side.membership_pitch, side.first_cluster);
    }
    copy_bits(side, item, tile / 2 * 4);
    if constexpr (C::kByKey) {
      const int x = static_cast<int>(threadIdx.x) * 2;
      if (x < kTileColumns) {
        copy_async_16(terms + x,
                      common.query_terms + item.problem * common.padded_queries + first + x, true);
      }
    }
    commit_copies();
  }

 private:
  __device__ void copy_bits(const Side<T>& side, const TileItem& item, int word) const {
    const PairBits& pairs = side.pairs;
    if (threadIdx.x == 0) {
      copy_async_16(valid, pairs.valid(item.sample) + word, true);
    }
    if (pairs.bits != nullptr) copy_rows(bits, pairs.bits, pairs.stride, pairs, item, word);
    if constexpr (C::kDrops) {
      if (side.kept != nullptr) copy_rows(kept, side.kept, side.kept_stride, pairs, item, word);
    }
  }
  /// Words word.. + 4 of the block's rows.
  __device__ static void copy_rows(uint32_t* to, const uint32_t* all, int64_t stride,
                                   const PairBits& pairs, const TileItem& item, int word) {
    const int first = item.block * C::kRows;
    const uint32_t* from = all + item.problem * stride + first * pairs.words_per_row + word;
    const int left = static_cast<int>(pairs.num_rows) - first;
#pragma unroll
    for (int r = 0; r < C::kRows; r += C::kThreads) {
      const int x = static_cast<int>(threadIdx.x) + r;
      if (C::kRows % C::kThreads != 0 && x >= C::kRows) break;
      copy_async_16(to + 4 * x, from + x * pairs.words_per_row, x < left);
    }
  }
};

/// Masks of a warp's rows against a tile, of each group of 16.
template <int kGroups>
struct TileMasks {
  uint32_t counted[kGroups];  ///< pairs that weigh
  uint32_t edges[kGroups];    ///< pairs with a straight-through gradient
  uint32_t kept[kGroups];     ///< by dropout
};

/// What a warp knows of its rows.
template <int kGroups>
struct WarpRows {
  uint32_t counted[kGroups];  ///< masks of the rows that do
  float2 terms[kGroups][2];   ///< of queries g and g + 8
};

template <class C>
__device__ inline int first_row(const TileItem& item) {
  return item.block * C::kRows + C::first_row_of_warp();
}
__device__ inline uint32_t row_mask(bool low, bool high) {
  return (low ? 0xFFFFu : 0u) | (high ? 0xFFFF0000u : 0u);
}

/// The pairs at most `radius` apart, among the sixteen rows first_row.. and the columns of the tile.
__device__ inline uint32_t near_pairs(int first_row, int tile, int radius) {
  const int ahead = tile * kTileColumns - first_row;  // of the first column before the first row
  if (ahead > 15 + radius || ahead + kTileColumns <= -radius) return 0;
  const int nearest = ahead + lane_index() % 4 * 2 - lane_index() / 4;
  uint32_t mask = 0;
#pragma unroll 4
  for (int bit = 0; bit < 32; ++bit) {
    const int distance = nearest + bit % 16 / 2 * 8 + bit % 2 - bit / 16 * 8;
    // Unsigned: what lies before the window is far beyond it.
    const bool is_near =
        static_cast<uint32_t>(distance + radius) <= 2 * static_cast<uint32_t>(radius);
    mask |= is_near ? 1u << bit : 0u;
  }
  return mask;
}

/// The mask of group `g` of the warp's rows that their words for the tile stand for.
template <class C>
__device__ inline uint32_t mask_of_words(const uint32_t* words, int g, int tile) {
  words += (C::first_row_of_warp() + 16 * g) * 4 + lane_index();
  const uint32_t low = words[0];
  const uint32_t high = words[8 * 4];
  return tile % 2 == 0 ? (low & 0xFFFFu) | high << 16 : low >> 16 | (high & 0xFFFF0000u);
}

/// The graph's pairs of group `g` of the warp's rows with the columns of the tile. What it says of
/// rows and columns that do not exist is multiplied by zeros, or not stored.
template <class C>
__device__ inline uint32_t graph_mask(const PairBits& pairs, const Stage<C>& stage,
                                      const TileItem& item, int g, int tile) {
  if (pairs.bits == nullptr) {
    // Only dense attention, which has no clusters, has patterns: other instances keep their
    // registers.
    if constexpr (C::kClusters > 0) return ~0u;
    return pairs.pattern_mask(item.problem, first_row<C>(item) + 16 * g, tile);
  }
  return mask_of_words<C>(stage.bits, g, tile);
}

/// What dropout keeps, where forward has not kept it: drawn from scratch for every tile, because the
/// walk over them has no registers to spare for KeptPairs.
template <class C>
__device__ inline void draw_kept_pairs(const Common& common, const TileItem& item, int tile,
                                       uint32_t (&kept)[C::kGroups]) {
  const KeptPairs pairs(common.dropout, item.sample, item.problem % common.heads);
  const int first = first_row<C>(item);
#pragma unroll
  for (int g = 0; g < C::kGroups; ++g) {
    kept[g] = C::kByKey ? pairs.by_key(first + 16 * g, tile) : pairs.by_query(first + 16 * g, tile);
  }
}

template <class C>
__device__ inline TileMasks<C::kGroups> tile_masks(const Side<typename C::Element>& side,
                                                   const Common& common, const Stage<C>& stage,
                                                   const TileItem& item,
                                                   const WarpRows<C::kGroups>& rows, int tile) {
  TileMasks<C::kGroups> masks;
  const uint32_t valid = column_mask(stage.valid, tile % 2);
#pragma unroll
  for (int g = 0; g < C::kGroups; ++g) {
    const uint32_t edges = graph_mask<C>(side.pairs, stage, item, g, tile);
    masks.counted[g] = edges & rows.counted[g] & valid;
    masks.edges[g] = common.window_radius < 0 ? edges
                                              : edges & ~near_pairs(first_row<C>(item) + 16 * g,
                                                                    tile, common.window_radius);
    masks.kept[g] = ~0u;
  }
  if constexpr (C::kDrops) {
    if (side.kept == nullptr) {
      draw_kept_pairs<C>(common, item, tile, masks.kept);
    } else {
#pragma unroll
      for (int g = 0; g < C::kGroups; ++g) masks.kept[g] = mask_of_words<C>(stage.kept, g, tile);
    }
  }
  return masks;
}

template <class C>
struct Gradients {
  typename C::MainSums first;   ///< dq or dk, without the scale
  typename C::MainSums second;  ///< dv
  typename C::ClusterSums memberships;
};

/// What becomes of one block of products: weights after dropout, ds, dp.
template <class C>
struct PairGradients {
  typename C::StepSums weight, ds, dp;
};

/// One n-tile: `scores` are products without the scale, `da` = dout . v; `terms` of the queries of
/// elements 0, 1 (by key) or 0, 2.
template <class C>
__device__ inline void differentiate_pairs(const Common& common, uint32_t counted, uint32_t edges,
                                           uint32_t kept, int v, const float (&scores)[4],
                                           const float (&da)[4], const float2 (&terms)[2],
                                           float (&weight)[4], float (&ds)[4], float (&dp)[4]) {
  float keep[4] = {1.0f, 1.0f, 1.0f, 1.0f};
  if constexpr (C::kDrops) {
#pragma unroll
    for (int e = 0; e < 4; ++e) keep[e] = has_bit(kept, v, e) ? common.dropout.rescale : 0.0f;
  }
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const float2 term = terms[C::kByKey ? e % 2 : e / 2];
    const float exponent = scores[e] * common.score_to_log2 - term.x;
    // The exponent is chosen, not the result: nothing branches around 2^x.
    const float p = exp2_of<typename C::Element>(has_bit(counted, v, e) ? exponent : -kInfinity);
    weight[e] = p * keep[e];
    ds[e] = p * (keep[e] * da[e] - term.y);
    const float rule = scores[e] * common.rule_slope + common.rule_offset;
    const float f = has_bit(edges, v, e) ? ds[e] * rule + common.regularizer : 0.0f;
    dp[e] = clamp_or_nan(f, -common.clip, common.clip);
  }
}

template <class C>
__device__ inline void differentiate_step(const Common& common, const TileMasks<C::kGroups>& masks,
                                          const typename C::StepSums& scores,
                                          const typename C::StepSums& da,
                                          const WarpRows<C::kGroups>& rows, const float2* columns,
                                          PairGradients<C>& to) {
#pragma unroll
  for (int v = 0; v < C::kStep / 8; ++v) {
    float2 terms[2];
    if constexpr (C::kByKey) {
      const auto* pair = reinterpret_cast<const float4*>(columns + 8 * v + 2 * (lane_index() % 4));
      terms[0] = {pair->x, pair->y};
      terms[1] = {pair->z, pair->w};
    }
#pragma unroll
    for (int g = 0; g < C::kGroups; ++g) {
      if constexpr (!C::kByKey) {
        terms[0] = rows.terms[g][0];
        terms[1] = rows.terms[g][1];
      }
      differentiate_pairs<C>(common, masks.counted[g], masks.edges[g], masks.kept[g], v,
                             scores.c[g][v], da.c[g][v], terms, to.weight.c[g][v], to.ds.c[g][v],
                             to.dp.c[g][v]);
    }
  }
}

/// Adds the pairs of kStep columns from `column` of the tile on.
template <class C>
__device__ inline void add_step(const Common& common, const Stage<C>& stage, int column,
                                const TileMasks<C::kGroups>& masks,
                                const WarpRows<C::kGroups>& rows, const typename C::Held (&held)[2],
                                Gradients<C>& gradients) {
  using T = typename C::Element;
  typename C::StepSums scores;
  typename C::StepSums da;
  scores.clear();
  da.clear();
  multiply_add_transposed<T>(scores, held[0], stage.operands[0], column);
  multiply_add_transposed<T>(da, held[1], stage.operands[1], column);
  PairGradients<C> pairs;
  differentiate_step<C>(common, masks, scores, da, rows, stage.terms + column, pairs);
  HeldRows<T, C::kGroups, C::kStep> left;
  const int first_column = C::split() * C::kSplitDim;
  left.set(pairs.ds);
  multiply_add_rows<C::kStep>(gradients.first, left, stage.operands[0], column, first_column);
  if constexpr (C::kByKey) {
    left.set(pairs.weight);
    multiply_add_rows<C::kStep>(gradients.second, left, stage.operands[1], column, first_column);
  }
  if constexpr (C::kClusters > 0) {
    left.set(pairs.dp);
    multiply_add_rows<C::kStep>(gradients.memberships, left, stage.memberships, column,
                                C::split() * C::kSplitClusters);
  }
}

template <class C>
__device__ inline void add_tile(const Side<typename C::Element>& side, const Common& common,
                                const Stage<C>& stage, const TileItem& item, int tile,
                                const WarpRows<C::kGroups>& rows, const typename C::Held (&held)[2],
                                Gradients<C>& gradients) {
  TileMasks<C::kGroups> masks = tile_masks<C>(side, common, stage, item, rows, tile);
  uint32_t any = 0;
#pragma unroll
  for (int g = 0; g < C::kGroups; ++g) any |= masks.counted[g] | masks.edges[g];
  if (ballot(any != 0) == 0) return;
#pragma unroll 1
  for (int column = 0; column < kTileColumns; column += C::kStep) {
    add_step<C>(common, stage, column, masks, rows, held, gradients);
#pragma unroll
    for (int g = 0; g < C::kGroups; ++g) {
      masks.counted[g] >>= C::kStep / 4;
      masks.edges[g] >>= C::kStep / 4;
      masks.kept[g] >>= C::kStep / 4;
    }
  }
}

// --- one block -----------------------------------------------------------------------------------

template <class C>
__device__ inline WarpRows<C::kGroups> warp_rows(const Side<typename C::Element>& side,
                                                 const Common& common, const TileItem& item) {
  WarpRows<C::kGroups> rows;
  const float2* terms = common.query_terms + int64_t{item.problem} * common.padded_queries;
#pragma unroll
  for (int g = 0; g < C::kGroups; ++g) {
    const int row = first_row<C>(item) + 16 * g + lane_index() / 4;
    rows.counted[g] =
        row_mask(side.pairs.has_row(item.sample, row), side.pairs.has_row(item.sample, row + 8));
    if constexpr (!C::kByKey) {
      rows.terms[g][0] = terms[row];
      rows.terms[g][1] = terms[row + 8];
    }
  }
  return rows;
}

/// The block's rows of both operands, in registers or in shared memory.
template <class C>
__device__ inline void hold_rows(const Side<typename C::Element>& side, const TileItem& item,
                                 std::byte* memory, typename C::Held (&held)[2]) {
  const int64_t count = side.pairs.num_rows;
  const int first = C::first_row_of_warp();
#pragma unroll
  for (int x = 0; x < 2; ++x) {
    const typename C::RowsTile tile(memory + x * C::RowsTile::kBytes);
    copy_columns_async<C::kThreads, C::kDim>(tile, side.rows[x] + item.problem * count * C::kDim,
                                             item.block * C::kRows, count);
    if constexpr (!C::kHoldsRows) held[x] = {tile, first};
  }
  commit_copies();
  if constexpr (C::kHoldsRows) {
    wait_for_copies<0>();
    sync_threads();
#pragma unroll
    for (int x = 0; x < 2; ++x) {
      held[x].load(typename C::RowsTile(memory + x * C::RowsTile::kBytes), first);
    }
    sync_threads();
  }
}

/// rows [first_row ..] of `to` [num_rows, pitch], from first_column on, = factor * sums.
template <class T, int kGroups, int kColumns>
__device__ inline void store_rows(T* to, int64_t pitch, int64_t first_column, int64_t first_row,
                                  int64_t num_rows, float factor,
                                  const Sums<kGroups, kColumns>& sums) {
  const bool is_paired = pitch % 2 == 0 && reinterpret_cast<uintptr_t>(to) % (2 * sizeof(T)) == 0;
#pragma unroll
  for (int half = 0; half < 2 * kGroups; ++half) {
    const int64_t row = first_row + lane_index() / 4 + 8 * half;
    if (row >= num_rows) continue;
#pragma unroll
    for (int v = 0; v < kColumns / 8; ++v) {
      const int64_t column = first_column + 8 * v + 2 * (lane_index() % 4);
      T* at = to + row * pitch + column;
      const float x = factor * sums.c[half / 2][v][half % 2 * 2];
      const float y = factor * sums.c[half / 2][v][half % 2 * 2 + 1];
      if (is_paired && column + 1 < pitch) {
        store_pair(at, x, y);
      } else {
        if (column < pitch) at[0] = from_float<T>(x);
        if (column + 1 < pitch) at[1] = from_float<T>(y);
      }
    }
  }
}

template <class C>
__device__ inline void store_gradients(const Side<typename C::Element>& side, const Common& common,
                                       const TileItem& item, const Gradients<C>& gradients) {
  const int64_t count = side.pairs.num_rows;
  const int64_t start = item.problem * count;
  const int row = first_row<C>(item);
  const int column = C::split() * C::kSplitDim;
  store_rows(side.gradients[0] + start * common.dim, common.dim, column, row, count, common.scale,
             gradients.first);
  if constexpr (C::kByKey) {
    store_rows(side.gradients[1] + start * common.dim, common.dim, column, row, count, 1.0f,
               gradients.second);
  }
  if constexpr (C::kClusters > 0) {
    store_rows(side.membership_gradient + start * common.clusters, common.clusters,
               side.first_cluster + C::split() * C::kSplitClusters, row, count, 1.0f,
               gradients.memberships);
  }
}

template <class C>
__device__ inline void add_tiles(const Side<typename C::Element>& side, const Common& common,
                                 const TileItem& item, const WarpRows<C::kGroups>& rows,
                                 std::byte* memory, Gradients<C>& gradients) {
  typename C::Held held[2];
  hold_rows<C>(side, item, memory, held);
  std::byte* stages = memory + (C::kHoldsRows ? 0 : C::kRowsBytes);
  const auto stage = [&](int x) { return Stage<C>(stages + x % C::kStages * C::kStageBytes); };
  const auto tile_at = [&](int x) { return item.tiles[x < item.count ? x : 0]; };
  int tile = tile_at(0);
  int next = tile_at(1);  // read early: its copies do not have to wait for it
  stage(0).copy(side, common, item, tile);
  for (int x = 0; x < item.count; ++x) {
    const bool is_last = x + 1 == item.count;
    wait_for_copies<0>();
    sync_threads();
    if (C::kStages == 2 && !is_last) stage(x + 1).copy(side, common, item, next);
    const int after = tile_at(x + 2);
    add_tile<C>(side, common, stage(x), item, tile, rows, held, gradients);
    if constexpr (C::kStages == 1) {
      sync_threads();
      if (!is_last) stage(0).copy(side, common, item, next);
    }
    tile = next;
    next = after;
  }
}

template <class C>
__global__ void __launch_bounds__(C::kThreads, C::kBlocksPerSm)
    attend_tiles_backward_kernel(const Side<typename C::Element> side, const Common common,
                                 const TileLists lists) {
  TileQueue queue(lists, shared_memory() + C::kQueueAt);
  for (; queue.item().count >= 0; queue.advance()) {
    queue.take();
    const TileItem& item = queue.item();
    const WarpRows<C::kGroups> rows = warp_rows<C>(side, common, item);
    Gradients<C> gradients;
    gradients.first.clear();
    gradients.second.clear();
    gradients.memberships.clear();
    if (item.count > 0) add_tiles<C>(side, common, item, rows, shared_memory(), gradients);
    store_gradients<C>(side, common, item, gradients);
    sync_threads();  // the next item is known, and all warps have left shared memory to it
  }
}

template <class C>
void launch_instance(const Stream& stream, const OwnedSide<typename C::Element>& owned,
                     const Common& common) {
  launch(stream,
         {.grid = persistent_grid(stream, owned.lists, C::kBlocksPerSm, C::kSharedBytes),
          .block = C::kThreads,
          .shared_bytes = C::kSharedBytes},
         attend_tiles_backward_kernel<C>, owned.side, common, owned.lists);
}

/// Calls body(std::integral_constant<int, K>), K: how many clusters one pass takes on, as many as
/// registers allow next to the gradients of the rows. Few lengths, because each is an instance.
template <class T, int kDim, class Body>
void with_chunk(int64_t clusters, const Body& body) {
  constexpr bool kIsBf16 = sizeof(T) == 2;
  constexpr int kUsual = !kIsBf16 && kDim == 128 ? 32 : 64;
  if (clusters == 0) return body(std::integral_constant<int, 0>{});
  if constexpr (kIsBf16 && (kDim == 32 || kDim == 64)) {
    if (clusters > kUsual) return body(std::integral_constant<int, 128>{});
  }
  return body(std::integral_constant<int, kUsual>{});
}

/// Every pass writes the same gradients of the rows, next to those of its clusters.
template <class T, Owner owner, int kDim>
void launch_passes(const Stream& stream, OwnedSide<T> owned, const Common& common) {
  int64_t& first = owned.side.first_cluster;
  do {
    if (first > 0) fill_zero_bytes(stream, owned.lists.taken, sizeof(*owned.lists.taken));
    with_chunk<T, kDim>(common.clusters - first, [&](auto chunk) {
      if (common.dropout.is_on) {
        launch_instance<Config<T, owner, kDim, chunk, true>>(stream, owned, common);
      } else {
        launch_instance<Config<T, owner, kDim, chunk, false>>(stream, owned, common);
      }
      first += chunk;
    });
  } while (first < common.clusters);
}

template <class T>
void launch_passes(const Stream& stream, Owner owner, OwnedSide<T> owned, const Common& common) {
  with_padded_dim(common.dim, [&](auto dim) {
    if (owner == Owner::kQuery) {
      launch_passes<T, Owner::kQuery, dim>(stream, owned, common);
    } else {
      launch_passes<T, Owner::kKey, dim>(stream, owned, common);
    }
  });
}

}  // namespace stipple::kernels::cuda::tiles_backward
