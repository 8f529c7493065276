// SPDX-License-Identifier: Apache-2.0
// Candidates of entmax attention. A block of 4 warps owns 64 rows, a warp 16 of them, and walks over
// the tiles of 64 columns in its list (attend/tiles.cuh), which come by cp.async into two stages. Rows
// are queries, which walk twice: for the best score, then for those within 1 of it, counted in x. Or
// they are keys, which walk once and compare with the bound that each query has by then.
//
// Scores here are sums in another order than those that tau is settled with. What that can make of
// them is bounded by the norms of the query and of the longest key, and candidates are taken from
// that much lower: who is left out is not in the support, whatever was rounded.
//
// A warp writes its rows' columns by ballots, ascending. Shared memory: 64 rows and two stages of 64
// columns, 192 D elements.
#include "core/copy.h"
#include "kernels/cuda/attend/edge.cuh"
#include "kernels/cuda/attend/tiles.cuh"
#include "kernels/cuda/attend_entmax/candidates.cuh"
#include "kernels/cuda/sums.h"

namespace stipple::kernels::cuda {
namespace {

constexpr int kCandidateRows = 16 * kTileWarps;

template <class T>
struct CandidateArrays {
  const T* rows;     // [P, num_rows, kDim]
  const T* columns;  // [P, num_columns, kDim]
  const float* alpha;
  const float* temperature;
  float scale;
  int dim;  ///< without padding
  const int32_t* longest_key;
  const float* bounds;  ///< of columns, where rows are keys
  PairBits pairs;
  TileLists lists;
  EntmaxCandidates out;
};

template <class T>
__global__ void __launch_bounds__(kTileThreads)
    longest_keys_kernel(int32_t* longest, const T* k, int64_t keys, int64_t rows, int dim) {
  const int64_t row = int64_t{blockIdx.x} * kTileWarps + warp_index();
  if (row >= rows) return;
  float sum = 0.0f;
  for (int c = lane_index(); c < dim; c += kWarpSize) {
    const float x = to_float(k[row * dim + c]);
    sum += x * x;
  }
  const float norm = fabsf(sqrtf(lanes_sum(sum)));  // without the sign that a NaN may have
  if (lane_index() == 0) atomic_max(longest + row / keys, std::bit_cast<int32_t>(norm));
}

__device__ float quad_max(float x) {
  x = fmaxf(x, shuffle_xor(x, 1));
  return fmaxf(x, shuffle_xor(x, 2));
}

/// One warp's 16 rows, of which a lane has parts of rows lane / 4 and + 8.
template <class T, int kDim>
struct CandidateRows {
  static constexpr bool kHoldsRows = sizeof(T) == sizeof(bf16);
  using Rows = SharedTile<T, kCandidateRows, kDim>;
  using Columns = SharedTile<T, kTileColumns, kDim>;
  using RowVectors =
      std::conditional_t<kHoldsRows, HeldRows<T, 1, kDim>, RowsInShared<T, kCandidateRows, kDim>>;
  static constexpr int kSharedBytes = Rows::kBytes + 2 * Columns::kBytes;

  const CandidateArrays<T>& x;
  TileItem item;
  int first_row;
  float factor;  ///< of a product, in x
  RowVectors vectors;
  float best[2] = {-kInfinity, -kInfinity};
  float bad[2] = {0.0f, 0.0f};  ///< 1: a score is not a number, or +inf
  int count[2] = {0, 0};

  __device__ explicit CandidateRows(const CandidateArrays<T>& arrays)
      : x(arrays),
        item(tile_item(arrays.lists)),
        first_row(item.block * kCandidateRows + warp_index() * 16) {
    const int head = item.problem % static_cast<int>(x.lists.heads);
    const float temperature = x.temperature == nullptr ? 1.0f : x.temperature[head];
    factor = (x.alpha[head] - 1.0f) * (temperature * x.scale);
    const Rows rows(shared_memory());
    copy_tile_async(rows, x.rows + item.problem * x.pairs.num_rows * kDim,
                    item.block * kCandidateRows, x.pairs.num_rows);
    commit_copies();
    wait_for_copies<0>();
    sync_threads();
    if constexpr (kHoldsRows) {
      vectors.load(rows, warp_index() * 16);
    } else {
      vectors = {rows, warp_index() * 16};
    }
  }

  __device__ Columns stage(int number) const {
    return Columns(shared_memory() + Rows::kBytes + number * Columns::kBytes);
  }
  __device__ void start_copy(int number, int tile) const {
    copy_tile_async(stage(number), x.columns + item.problem * x.pairs.num_columns * kDim,
                    int64_t{tile} * kTileColumns, x.pairs.num_columns);
  }

  /// Calls body(tile, products, mask) for every tile of the list; all warps of the block do.
  template <class Body>
  __device__ void for_each_tile(const Body& body) const {
    if (item.count > 0) start_copy(0, item.tiles[0]);
    commit_copies();
    for (int i = 0; i < item.count; ++i) {
      wait_for_copies<0>();
      sync_threads();  // this stage is there, and all warps have left the other
      if (i + 1 < item.count) start_copy((i + 1) % 2, item.tiles[i + 1]);
      commit_copies();
      const int tile = item.tiles[i];
      Sums<1, kTileColumns> products;
      products.clear();
      multiply_add_transposed(products, vectors, stage(i % 2));
      const uint32_t mask = x.pairs.template mask<true>(item.problem, first_row, tile) &
                            column_mask(x.pairs.valid(item.sample), tile);
      body(tile, products.c[0], mask);
    }
    wait_for_copies<0>();
    sync_threads();
  }

  __device__ void find_best() {
    for_each_tile([&](int, const float(&products)[kTileColumns / 8][4], uint32_t mask) {
#pragma unroll
      for (int v = 0; v < kTileColumns / 8; ++v) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (!has_bit(mask, v, e)) continue;
          const float score = factor * products[v][e];
          best[e / 2] = fmaxf(best[e / 2], score);
          if (!(score < kInfinity)) bad[e / 2] = 1.0f;
        }
      }
    });
    for (int r = 0; r < 2; ++r) {
      best[r] = quad_max(best[r]);
      bad[r] = quad_max(bad[r]);
    }
  }

  __device__ int64_t row_of(int r) const { return first_row + lane_index() / 4 + 8 * r; }

  /// What queries' scores must exceed: the best less 1.
  __device__ void find_bounds(float (&bound)[2]) {
    for (int r = 0; r < 2; ++r) {
      const int64_t last = x.pairs.num_rows - 1, row = row_of(r) < last ? row_of(r) : last;
      const T* query = x.rows + (item.problem * x.pairs.num_rows + row) * kDim;
      float sum = 0.0f;
      for (int c = lane_index() % 4; c < kDim; c += 4)
        sum += to_float(query[c]) * to_float(query[c]);
      sum += shuffle_xor(sum, 1);
      sum += shuffle_xor(sum, 2);
      const float slack = entmax_slack(factor, sqrtf(sum), x.longest_key[item.problem], x.dim);
      if (!(slack < kInfinity)) bad[r] = 1.0f;
      bound[r] = best[r] - 1.0f - slack;
    }
  }

  /// Writes the columns of row r among eight: this lane's two are there or not.
  __device__ void write_columns(int r, bool low, bool high, int64_t first_column) {
    const int quad = lane_index() & ~3;
    const uint32_t lows = ballot(low) >> quad & 0xFu, highs = ballot(high) >> quad & 0xFu;
    const uint32_t before = (1u << (lane_index() % 4)) - 1u;
    const int at = count[r] + popcount(lows & before) + popcount(highs & before);
    const int64_t row = row_of(r);
    uint32_t* columns = x.out.columns + (item.problem * x.pairs.num_rows + row) * x.out.room;
    const auto column = static_cast<uint32_t>(first_column + lane_index() % 4 * 2);
    if (row < x.pairs.num_rows) {
      if (low && at < x.out.room) columns[at] = column;
      const int next = at + (low ? 1 : 0);
      if (high && next < x.out.room) columns[next] = column + 1;
    }
    count[r] += popcount(lows) + popcount(highs);
  }

  /// bound_of(e, column): what element e of a row's products, of that column, must exceed.
  template <class BoundOf>
  __device__ void list_columns(const BoundOf& bound_of) {
    for_each_tile([&](int tile, const float(&products)[kTileColumns / 8][4], uint32_t mask) {
#pragma unroll
      for (int v = 0; v < kTileColumns / 8; ++v) {
        const int64_t first = int64_t{tile} * kTileColumns + 8 * v;
        bool stays[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          stays[e] = has_bit(mask, v, e) &&
                     factor * products[v][e] > bound_of(e, first + lane_index() % 4 * 2 + e % 2);
        }
        if (ballot(stays[0] || stays[1] || stays[2] || stays[3]) == 0) continue;
        write_columns(0, stays[0], stays[1], first);
        write_columns(1, stays[2], stays[3], first);
      }
    });
    for (int r = 0; r < 2; ++r) {
      if (lane_index() % 4 != 0 || row_of(r) >= x.pairs.num_rows) continue;
      x.out.count[item.problem * x.pairs.num_rows + row_of(r)] =
          bad[r] > 0.0f ? static_cast<int32_t>(x.out.room) + 1 : count[r];
    }
  }
};

template <class T, int kDim>
__global__ void __launch_bounds__(kTileThreads) list_keys_kernel(CandidateArrays<T> x) {
  CandidateRows<T, kDim> rows(x);
  rows.find_best();
  float bound[2];
  rows.find_bounds(bound);
  rows.list_columns([&](int e, int64_t) { return bound[e / 2]; });
}

template <class T, int kDim>
__global__ void __launch_bounds__(kTileThreads) list_queries_kernel(CandidateArrays<T> x) {
  CandidateRows<T, kDim> rows(x);
  const float* bounds = x.bounds + rows.item.problem * x.pairs.num_columns;
  rows.list_columns([&](int, int64_t query) { return bounds[query]; });
}

template <class T, int kDim>
CandidateArrays<T> candidate_arrays(const Stream& stream, const EntmaxTiles& tiles,
                                    const PairBits& pairs, const EntmaxCandidates& out,
                                    Arena& scratch) {
  const AttendArrays& a = tiles.a;
  const auto vectors = [&](const void* x, int64_t count) {
    return make_rows<T>(stream, scratch, x, a.problems() * count, a.dim, kDim);
  };
  return {
      .rows = vectors(pairs.rows_are_keys ? a.k : a.q, pairs.num_rows),
      .columns = vectors(pairs.rows_are_keys ? a.q : a.k, pairs.num_columns),
      .alpha = tiles.alpha,
      .temperature = tiles.temperature,
      .scale = a.scale,
      .dim = static_cast<int>(a.dim),
      .longest_key = tiles.longest_key,
      .bounds = nullptr,
      .pairs = pairs,
      .lists = make_tile_lists(stream, scratch, pairs, nullptr, a.batch, a.heads, kCandidateRows),
      .out = out};
}

template <class T, int kDim>
LaunchShape a_block_an_item(const CandidateArrays<T>& x) {
  return {.grid = blocks_for(x.lists.items, 1),
          .block = kTileThreads,
          .shared_bytes = CandidateRows<T, kDim>::kSharedBytes};
}

}  // namespace

void find_longest_keys(const Stream& stream, const AttendArrays& a, int32_t* longest) {
  const int64_t keys = a.problems() * a.num_keys;
  fill_zero(stream, View<int32_t>{longest, {a.problems()}});
  with_real_type(a.storage, [&](auto zero) {
    using T = decltype(zero);
    launch(stream, {.grid = blocks_for(keys, kTileWarps), .block = kTileThreads},
           longest_keys_kernel<T>, longest, static_cast<const T*>(a.k), a.num_keys, keys,
           static_cast<int>(a.dim));
  });
}

void list_keys(const Stream& stream, const EntmaxTiles& tiles, const EntmaxCandidates& out,
               Arena& scratch) {
  const Arena::Scope scope(scratch);
  const PairBits pairs = bits_by_query(stream, tiles.a, scratch);
  with_padded_dim(tiles.a.dim, [&](auto dim) {
    with_real_type(tiles.a.storage, [&](auto zero) {
      using T = decltype(zero);
      const auto x = candidate_arrays<T, dim()>(stream, tiles, pairs, out, scratch);
      launch(stream, a_block_an_item<T, dim()>(x), list_keys_kernel<T, dim()>, x);
    });
  });
}

void list_queries(const Stream& stream, const EntmaxTiles& tiles, const float* bounds,
                  const EntmaxCandidates& out, Arena& scratch) {
  const Arena::Scope scope(scratch);
  const PairBits pairs = bits_by_key(stream, tiles.a, scratch);
  with_padded_dim(tiles.a.dim, [&](auto dim) {
    with_real_type(tiles.a.storage, [&](auto zero) {
      using T = decltype(zero);
      auto x = candidate_arrays<T, dim()>(stream, tiles, pairs, out, scratch);
      x.bounds = bounds;
      launch(stream, a_block_an_item<T, dim()>(x), list_queries_kernel<T, dim()>, x);
    });
  });
}

}  // namespace stipple::kernels::cuda
