// SPDX-License-Identifier: Apache-2.0
// Candidates of entmax attention. A block of 4 warps owns 64 queries, a warp 16 of them, and walks
// twice over the tiles of 64 keys in its list (attend/tiles.cuh): for the best score of each row,
// then for those within 1 of it, counted in x. Keys come by cp.async into two stages.
//
// Scores here are sums in another order than those that tau is settled with. What that can make of
// them is bounded by the norms of the query and of the longest key, and candidates are taken from
// that much lower: who is left out is not in the support, whatever was rounded.
//
// A warp writes its rows' keys by ballots, ascending. Shared memory: 64 queries and two stages of 64
// keys, 192 D elements.
#include "core/copy.h"
#include "kernels/cuda/attend/edge.cuh"
#include "kernels/cuda/attend/tiles.cuh"
#include "kernels/cuda/attend_entmax/candidates.h"
#include "kernels/cuda/sums.h"

namespace stipple::kernels::cuda {
namespace {

constexpr int kCandidateRows = 16 * kTileWarps;

template <class T>
struct CandidateArrays {
  const T* q;  // [P, N, kDim]
  const T* k;  // [P, M, kDim]
  int64_t num_queries, num_keys;
  const float* alpha;        // [H]
  const float* temperature;  // [H]; null: 1
  float scale;
  const int32_t* longest_key;  ///< [P]  norms, as the bits of floats
  PairBits pairs;
  TileLists lists;
  EntmaxCandidates out;
};

/// The largest norm of a problem's keys; a norm that is not a number is larger than all.
template <class T>
__global__ void __launch_bounds__(kTileThreads)
    longest_key_kernel(int32_t* longest, const T* k, int64_t keys, int64_t rows, int dim) {
  const int64_t row = int64_t{blockIdx.x} * kTileWarps + warp_index();
  if (row >= rows) return;
  float sum = 0.0f;
  for (int c = lane_index(); c < dim; c += kWarpSize) {
    const float x = to_float(k[row * dim + c]);
    sum += x * x;
  }
  const float norm = sqrtf(lanes_sum(sum));
  if (lane_index() == 0)
    atomic_max(longest + row / keys, std::bit_cast<int32_t>(norm == norm ? norm : fabsf(norm)));
}

__device__ float quad_max(float x) {
  x = fmaxf(x, shuffle_xor(x, 1));
  return fmaxf(x, shuffle_xor(x, 2));
}

/// One warp's 16 rows, of which a lane has parts of rows lane / 4 and + 8.
template <class T, int kDim>
struct CandidateRows {
  static constexpr bool kHoldsQueries = sizeof(T) == sizeof(bf16);
  using Queries = SharedTile<T, kCandidateRows, kDim>;
  using Keys = SharedTile<T, kTileColumns, kDim>;
  using QueryRows = std::conditional_t<kHoldsQueries, HeldRows<T, 1, kDim>,
                                       RowsInShared<T, kCandidateRows, kDim>>;
  static constexpr int kSharedBytes = Queries::kBytes + 2 * Keys::kBytes;

  const CandidateArrays<T>& x;
  TileItem item;
  int first_row;
  float factor;  ///< of a product, in x
  QueryRows q;
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
    const Queries queries(shared_memory());
    copy_tile_async(queries, x.q + item.problem * x.num_queries * kDim, item.block * kCandidateRows,
                    x.num_queries);
    commit_copies();
    wait_for_copies<0>();
    sync_threads();
    if constexpr (kHoldsQueries) {
      q.load(queries, warp_index() * 16);
    } else {
      q = {queries, warp_index() * 16};
    }
  }

  __device__ Keys keys(int stage) const {
    return Keys(shared_memory() + Queries::kBytes + stage * Keys::kBytes);
  }
  __device__ void start_copy(int stage, int tile) const {
    copy_tile_async(keys(stage), x.k + item.problem * x.num_keys * kDim,
                    int64_t{tile} * kTileColumns, x.num_keys);
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
      multiply_add_transposed(products, q, keys(i % 2));
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

  /// Twice what a score here may differ from another sum of the same products.
  __device__ float slack(int r) const {
    constexpr float kRounding = 0x1p-21f * static_cast<float>(kDim);
    const int64_t row = first_row + lane_index() / 4 + 8 * r;
    const int64_t last = x.num_queries - 1;
    const T* query = x.q + (item.problem * x.num_queries + (row < last ? row : last)) * kDim;
    float sum = 0.0f;
    for (int c = lane_index() % 4; c < kDim; c += 4) sum += to_float(query[c]) * to_float(query[c]);
    sum += shuffle_xor(sum, 1);
    sum += shuffle_xor(sum, 2);
    const float longest = std::bit_cast<float>(x.longest_key[item.problem]);
    return fabsf(factor) * sqrtf(sum) * longest * kRounding;
  }

  /// Writes the keys of row r among eight columns: this lane's two are there or not.
  __device__ void write_keys(int r, bool low, bool high, int64_t first_column) {
    const int quad = lane_index() & ~3;
    const uint32_t lows = ballot(low) >> quad & 0xFu, highs = ballot(high) >> quad & 0xFu;
    const uint32_t before = (1u << (lane_index() % 4)) - 1u;
    const int at = count[r] + popcount(lows & before) + popcount(highs & before);
    const int64_t row = first_row + lane_index() / 4 + 8 * r;
    uint32_t* columns = x.out.columns + (item.problem * x.num_queries + row) * x.out.room;
    const auto column = static_cast<uint32_t>(first_column + lane_index() % 4 * 2);
    if (row < x.num_queries) {
      if (low && at < x.out.room) columns[at] = column;
      const int next = at + (low ? 1 : 0);
      if (high && next < x.out.room) columns[next] = column + 1;
    }
    count[r] += popcount(lows) + popcount(highs);
  }

  __device__ void list_candidates() {
    float bound[2];
    for (int r = 0; r < 2; ++r) {
      const float lower = slack(r);
      if (!(lower < kInfinity)) bad[r] = 1.0f;
      bound[r] = best[r] - 1.0f - lower;
    }
    for_each_tile([&](int tile, const float(&products)[kTileColumns / 8][4], uint32_t mask) {
#pragma unroll
      for (int v = 0; v < kTileColumns / 8; ++v) {
        bool stays[4];
#pragma unroll
        for (int e = 0; e < 4; ++e)
          stays[e] = has_bit(mask, v, e) && factor * products[v][e] > bound[e / 2];
        if (ballot(stays[0] || stays[1] || stays[2] || stays[3]) == 0) continue;
        const int64_t first = int64_t{tile} * kTileColumns + 8 * v;
        write_keys(0, stays[0], stays[1], first);
        write_keys(1, stays[2], stays[3], first);
      }
    });
    for (int r = 0; r < 2; ++r) {
      const int64_t row = first_row + lane_index() / 4 + 8 * r;
      if (lane_index() % 4 != 0 || row >= x.num_queries) continue;
      x.out.count[item.problem * x.num_queries + row] =
          bad[r] > 0.0f ? static_cast<int32_t>(x.out.room) + 1 : count[r];
    }
  }
};

template <class T, int kDim>
__global__ void __launch_bounds__(kTileThreads) entmax_candidates_kernel(CandidateArrays<T> x) {
  CandidateRows<T, kDim> rows(x);
  rows.find_best();
  rows.list_candidates();
}

template <class T, int kDim>
void list_candidates(const Stream& stream, const AttendArrays& a, const float* alpha,
                     const float* temperature, const EntmaxCandidates& out, Arena& scratch) {
  const int64_t queries = a.problems() * a.num_queries, keys = a.problems() * a.num_keys;
  const PairBits pairs = bits_by_query(stream, a, scratch);
  const View<int32_t> longest = scratch.alloc<int32_t>({a.problems()});
  const T* k = make_rows<T>(stream, scratch, a.k, keys, a.dim, kDim);
  fill_zero(stream, longest);
  launch(stream, {.grid = blocks_for(keys, kTileWarps), .block = kTileThreads},
         longest_key_kernel<T>, longest.data, k, a.num_keys, keys, kDim);
  const CandidateArrays<T> x = {
      .q = make_rows<T>(stream, scratch, a.q, queries, a.dim, kDim),
      .k = k,
      .num_queries = a.num_queries,
      .num_keys = a.num_keys,
      .alpha = alpha,
      .temperature = temperature,
      .scale = a.scale,
      .longest_key = longest.data,
      .pairs = pairs,
      .lists = make_tile_lists(stream, scratch, pairs, nullptr, a.batch, a.heads, kCandidateRows),
      .out = out};
  launch(stream,
         {.grid = blocks_for(x.lists.items, 1),
          .block = kTileThreads,
          .shared_bytes = CandidateRows<T, kDim>::kSharedBytes},
         entmax_candidates_kernel<T, kDim>, x);
}

}  // namespace

void entmax_candidates(const Stream& stream, const AttendArrays& a, const float* alpha,
                       const float* temperature, const EntmaxCandidates& out, Arena& scratch) {
  const Arena::Scope scope(scratch);
  with_padded_dim(a.dim, [&](auto dim) {
    with_real_type(a.storage, [&](auto zero) {
      list_candidates<decltype(zero), dim()>(stream, a, alpha, temperature, out, scratch);
    });
  });
}

}  // namespace stipple::kernels::cuda
