// SPDX-License-Identifier: Apache-2.0
// Forward attention over bits or all pairs: flash attention on tensor cores with one bit a pair.
// Method: Dao 2023 (arXiv 2307.08691); the bits stand in the order of the accumulators
// (kernels/edges.h, BitOrder::kLanes), so a lane reads one word per row and 128 keys.
//
// A block of 4 warps owns 128 queries (64 of fp32, or of 128 columns), a warp 32 (16) of them, and
// walks over the tiles of 64 keys in its list; keys and values come by cp.async into two stages.
// Scores stay in registers and become, there, the left operand of the product with the values.
// The storage of the arrays, fp32 or bf16, is also that of the operands: nothing is copied before
// the kernel, except to pad other head dimensions than 16, 32, 64, 128.
//
// The grid is as large as the device can hold, and its blocks take row blocks, longest lists first,
// from a counter (TileQueue). Fixed shares would be as even only if equal lists took equal time,
// which they do not where a multiprocessor waits for memory or for its other blocks. The next row
// block is asked for while the copies of this one are under way, and its queries and first tile
// are copied while these results are written. Results do not depend on who takes what: a row has
// one owner, which goes through its tiles in ascending order.
//
// Predicted for 256 problems, N = M = 4096, D = 64, bf16, on an H200 (nothing measured yet):
//   4 D = 256 flop a pair, 1.1 Tflop: 1.8 ms at the 62 % that mma.sync reaches of 990 Tflop/s;
//   11.8 warp instructions for 32 pairs (launch/kernel_report.sh; a bit's test, select, max, fma,
//   exp2, sum, half a conversion; 2 products, half a load), one more where a maximum rises: 1.7 ms;
//   exp2 alone 1.0 ms; shared memory, 8 bytes a pair, 1.0 ms; L2, 2 bytes a pair, 0.9 ms. Half of it
//   hidden: 2.9 to 3.6 ms.
//   HBM: bits 0.54 GB, operands and outputs 0.54 GB: 0.26 ms beside the rest, and 0.03 ms for the
//   lists before.
//   8192 row blocks for 264 blocks: the last ones end within one row block, 0.1 ms, of each other.
// Registers (most of sm_80, 90, 100), shared memory and resident blocks of 4 warps:
//   bf16  D = 16: 162, 8 KB, 3    32: 168, 16 KB, 3   64: 255, 32 KB, 2   128: 246, 64 KB, 2
//   fp32  D = 16: 157, 20 KB, 3   32: 216, 40 KB, 2   64: 255, 80 KB, 2   128: 255, 160 KB, 1
// Nothing is spilled but one register of fp32, D = 128.
#include <algorithm>
#include <limits>

#include "core/error.h"
#include "kernels/cuda/attend/tiles.cuh"

namespace stipple::kernels::cuda {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.69314718055994531f;

/// Sizes of an instance. Two groups of 16 rows a warp halve what a pair reads from shared memory;
/// they fit in registers up to 64 columns of bf16.
template <class T, int kDim>
struct Shape {
  static constexpr bool kIsBf16 = std::is_same_v<T, bf16>;
  static constexpr int kGroups = kIsBf16 && kDim <= 64 ? 2 : 1;
  static constexpr int kRows = 16 * kGroups * kTileWarps;
  /// Parts of fp32 queries would take three times the registers: they stay in shared memory.
  static constexpr bool kHoldsQueries = kIsBf16;
  /// What the grid counts on, so the compiler must keep to it.
  static constexpr int kBlocksPerSm = kDim <= (kIsBf16 ? 32 : 16)    ? 3
                                      : kDim <= (kIsBf16 ? 128 : 64) ? 2
                                                                     : 1;

  using Queries = SharedTile<T, kRows, kDim>;
  using Columns = SharedTile<T, kTileColumns, kDim>;
  static constexpr int kStageBytes = 2 * Columns::kBytes;  // keys, then values
  /// Held queries pass through the second stage.
  static_assert(!kHoldsQueries || Queries::kBytes <= kStageBytes);
  static constexpr int kQueriesAt = kHoldsQueries ? kStageBytes : 2 * kStageBytes;
  static constexpr int kQueueAt = 2 * kStageBytes + (kHoldsQueries ? 0 : Queries::kBytes);
  static constexpr int kSharedBytes = kQueueAt + TileQueue::kSharedBytes;
  using QueryRows =
      std::conditional_t<kHoldsQueries, HeldRows<T, kGroups, kDim>, RowsInShared<T, kRows, kDim>>;
};

template <class T>
struct ForwardArrays {
  const T* q;  // [P, N, kDim]
  const T* k;  // [P, M, kDim]
  const T* v;
  T* o;        // [P, N, dim]
  float* lse;  // [P, N]
  int64_t num_queries;
  int64_t num_keys;
  int64_t dim;
  float scale;       ///< of scores in powers of two; positive
  bool is_negative;  ///< -scale is meant
  PairBits pairs;
  TileLists lists;
  WeightDropout dropout;
};

/// The running softmax of 16 rows: a lane has rows lane / 4 and + 8. `highest` is a product q . k,
/// `sum` is of this lane's columns only.
struct RunningRows {
  float highest[2] = {-kInfinity, -kInfinity};
  float sum[2] = {0.0f, 0.0f};
};

__device__ inline float max_of_quad(float x) {
  x = fmaxf(x, shuffle_xor(x, 1));
  return fmaxf(x, shuffle_xor(x, 2));
}
__device__ inline float sum_of_quad(float x) {
  x += shuffle_xor(x, 1);
  return x + shuffle_xor(x, 2);
}

/// Products of the pairs in `mask` become weights relative to the new maximum of their row, others
/// become 0. What was summed before is to be multiplied with `factor`.
template <class T, int kTiles>
__device__ inline void to_weights(float (&s)[kTiles][4], uint32_t mask, float scale,
                                  RunningRows& rows, float (&factor)[2]) {
  float base[2] = {rows.highest[0], rows.highest[1]};
#pragma unroll
  for (int r = 0; r < 2;
       ++r) {  // as the mask's bits lie, so that seven at a time become predicates
#pragma unroll
    for (int v = 0; v < kTiles; ++v) {
#pragma unroll
      for (int e = 2 * r; e < 2 * r + 2; ++e) {
        s[v][e] = has_bit(mask, v, e) ? s[v][e] : -kInfinity;
        base[r] = fmaxf(base[r], s[v][e]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float highest = max_of_quad(base[r]);
    base[r] = highest == -kInfinity ? 0.0f : highest * scale;
    factor[r] = exp2_of<T>(rows.highest[r] * scale - base[r]);
    rows.highest[r] = highest;
    rows.sum[r] *= factor[r];
  }
#pragma unroll
  for (int v = 0; v < kTiles; ++v) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      s[v][e] = exp2_of<T>(fmaf(s[v][e], scale, -base[e / 2]));
      rows.sum[e / 2] += s[v][e];
    }
  }
}

template <int kTiles>
__device__ inline void negate(float (&s)[kTiles][4]) {
#pragma unroll
  for (int v = 0; v < kTiles; ++v) {
#pragma unroll
    for (int e = 0; e < 4; ++e) s[v][e] = -s[v][e];
  }
}

/// Most tiles raise no maximum once a row has seen a few.
template <int kTiles>
__device__ inline void rescale(float (&o)[kTiles][4], const float (&factor)[2]) {
  if (ballot(factor[0] != 1.0f || factor[1] != 1.0f) == 0) return;
#pragma unroll
  for (int v = 0; v < kTiles; ++v) {
#pragma unroll
    for (int e = 0; e < 4; ++e) o[v][e] *= factor[e / 2];
  }
}

template <int kTiles>
__device__ inline void drop(float (&weights)[kTiles][4], uint32_t kept) {
#pragma unroll
  for (int v = 0; v < kTiles; ++v) {
#pragma unroll
    for (int e = 0; e < 4; ++e) weights[v][e] = has_bit(kept, v, e) ? weights[v][e] : 0.0f;
  }
}

/// Normalises and writes 16 rows.
template <class T, int kTiles>
__device__ inline void write_rows(const ForwardArrays<T>& x, int64_t problem, int64_t first_row,
                                  const float (&o)[kTiles][4], const RunningRows& rows,
                                  float rescale) {
  const bool is_paired =
      x.dim == 8 * kTiles && reinterpret_cast<uintptr_t>(x.o) % (2 * sizeof(T)) == 0;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float sum = sum_of_quad(rows.sum[r]);
    const int64_t row = first_row + lane_index() / 4 + 8 * r;
    if (row >= x.num_queries) continue;
    const bool is_empty = sum == 0.0f;
    const float factor = is_empty ? 0.0f : rescale / sum;
    const int64_t i = problem * x.num_queries + row;
    if (lane_index() % 4 == 0) {
      x.lse[i] = is_empty ? -kInfinity : (rows.highest[r] * x.scale + std::log2(sum)) * kLn2;
    }
    T* to = x.o + i * x.dim;
#pragma unroll
    for (int v = 0; v < kTiles; ++v) {
      const int column = 8 * v + 2 * (lane_index() % 4);
      const float low = o[v][2 * r] * factor;
      const float high = o[v][2 * r + 1] * factor;
      if (is_paired) {
        store_pair(to + column, low, high);
      } else {
        if (column < x.dim) to[column] = from_float<T>(low);
        if (column + 1 < x.dim) to[column + 1] = from_float<T>(high);
      }
    }
  }
}

/// The two stages of keys and values.
template <class T, int kDim>
struct Stages {
  using Sizes = Shape<T, kDim>;
  using Columns = typename Sizes::Columns;
  std::byte* memory;
  const T* k;
  const T* v;
  int64_t num_keys;

  __device__ Columns keys(int stage) const { return Columns(memory + stage * Sizes::kStageBytes); }
  __device__ Columns values(int stage) const {
    return Columns(memory + stage * Sizes::kStageBytes + Columns::kBytes);
  }
  __device__ void start_copy(int stage, int64_t tile) const {
    copy_tile_async(keys(stage), k, tile * kTileColumns, num_keys);
    copy_tile_async(values(stage), v, tile * kTileColumns, num_keys);
  }
};

/// What a warp keeps of its queries while it walks over tiles. kIsGeneral: there may be dropout, a
/// pattern or a negative scale.
template <class T, int kDim, bool kIsGeneral>
struct WarpQueries {
  using Sizes = Shape<T, kDim>;
  static constexpr int kGroups = Sizes::kGroups;

  const TileItem* item;  // in shared memory
  typename Sizes::QueryRows q;
  Sums<kGroups, kDim> o;
  RunningRows rows[kGroups];
  uint32_t masks[kGroups];
  KeptPairs kept;  // where dropout is on

  __device__ int first_row() const {
    return item->block * Sizes::kRows + warp_index() * 16 * kGroups;
  }

  __device__ void load_masks(const ForwardArrays<T>& x, int tile) {
    const int problem = item->problem;
    const int row = first_row();
    const uint32_t valid = column_mask(x.pairs.valid(item->sample), tile);
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      masks[g] = x.pairs.template mask<kIsGeneral>(problem, row + 16 * g, tile) & valid;
    }
  }

  /// `masks` are this tile's before and those of tile `next` after, if it is not negative.
  __device__ void add_tile(const ForwardArrays<T>& x, int tile, int next,
                           const typename Sizes::Columns& keys,
                           const typename Sizes::Columns& values) {
    Sums<kGroups, kTileColumns> s;
    s.clear();
    multiply_add_transposed(s, q, keys);
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      if (kIsGeneral && x.is_negative) negate(s.c[g]);
      float factor[2];
      to_weights<T>(s.c[g], masks[g], x.scale, rows[g], factor);
      rescale(o.c[g], factor);
      if (kIsGeneral && x.dropout.is_on) {
        const uint32_t mask = kept.by_query(first_row() + 16 * g, tile);
        keep_mask(x.dropout, x.pairs, item->problem, first_row() + 16 * g, tile, mask);
        drop(s.c[g], mask);
      }
    }
    if (next >= 0) load_masks(x, next);
    HeldRows<T, kGroups, kTileColumns> weights;
    weights.set(s);
    multiply_add_rows<kTileColumns>(o, weights, values);
  }
};

template <class T, int kDim>
__device__ inline Stages<T, kDim> stages_of(const ForwardArrays<T>& x, const TileItem& item) {
  const int64_t keys_at = item.problem * x.num_keys * kDim;
  return {shared_memory(), x.k + keys_at, x.v + keys_at, x.num_keys};
}

/// Starts the copies of an item's queries and first tile, over whatever is in shared memory.
template <class T, int kDim>
__device__ inline void start_copies(const ForwardArrays<T>& x, const TileItem& item) {
  using Sizes = Shape<T, kDim>;
  if (item.count < 0) return;
  copy_tile_async(typename Sizes::Queries(shared_memory() + Sizes::kQueriesAt),
                  x.q + item.problem * x.num_queries * kDim, item.block * Sizes::kRows,
                  x.num_queries);
  if (item.count > 0) stages_of<T, kDim>(x, item).start_copy(0, item.tiles[0]);
  commit_copies();
}

/// With the queries in shared memory.
template <class T, int kDim, bool kIsGeneral>
__device__ inline void begin(WarpQueries<T, kDim, kIsGeneral>& own, const ForwardArrays<T>& x,
                             const TileItem& item) {
  using Sizes = Shape<T, kDim>;
  own.item = &item;
  if (kIsGeneral && x.dropout.is_on) {
    const int head = item.problem % static_cast<int>(x.lists.heads);
    own.kept = KeptPairs(x.dropout, item.sample, head);
  }
  const typename Sizes::Queries queries(shared_memory() + Sizes::kQueriesAt);
  const int warp_row = warp_index() * 16 * Sizes::kGroups;
  if constexpr (Sizes::kHoldsQueries) {
    own.q.load(queries, warp_row);
  } else {
    own.q = {queries, warp_row};
  }
  own.o.clear();
  if (item.count > 0) own.load_masks(x, item.tiles[0]);
}

template <class T, int kDim, bool kIsGeneral>
__device__ inline void add_tiles(WarpQueries<T, kDim, kIsGeneral>& own, const ForwardArrays<T>& x,
                                 const TileItem& item) {
  for (int i = 0; i < item.count; ++i) {
    wait_for_copies<0>();
    sync_threads();  // this stage is there, and all warps have left the other
    const Stages<T, kDim> stages = stages_of<T, kDim>(x, item);
    const int next = i + 1 < item.count ? item.tiles[i + 1] : -1;
    if (next >= 0) stages.start_copy((i + 1) % 2, next);
    commit_copies();
    own.add_tile(x, item.tiles[i], next, stages.keys(i % 2), stages.values(i % 2));
  }
}

template <class T, int kDim, bool kIsGeneral>
__global__ void __launch_bounds__(kTileThreads, (Shape<T, kDim>::kBlocksPerSm))
    attend_tiles_kernel(ForwardArrays<T> x) {
  using Sizes = Shape<T, kDim>;
  TileQueue queue(x.lists, shared_memory() + Sizes::kQueueAt);
  start_copies<T, kDim>(x, queue.item());
  for (; queue.item().count >= 0; queue.advance()) {
    queue.take();
    wait_for_copies<0>();
    sync_threads();
    WarpQueries<T, kDim, kIsGeneral> own;
    begin(own, x, queue.item());
    add_tiles(own, x, queue.item());
    const int problem = queue.item().problem;
    const int first_row = own.first_row();
    sync_threads();  // all warps have left this item's part of shared memory to the next one
    start_copies<T, kDim>(x, queue.next());
#pragma unroll
    for (int g = 0; g < Sizes::kGroups; ++g) {
      write_rows(x, problem, first_row + 16 * g, own.o.c[g], own.rows[g],
                 kIsGeneral && x.dropout.is_on ? x.dropout.rescale : 1.0f);
    }
  }
}

template <class T, int kDim>
void run(const Stream& stream, const AttendArrays& a, Arena& scratch) {
  using Sizes = Shape<T, kDim>;
  const int64_t queries = a.problems() * a.num_queries;
  const int64_t keys = a.problems() * a.num_keys;
  const PairBits pairs = bits_by_query(stream, a, scratch);
  const ForwardArrays<T> x = {
      .q = make_rows<T>(stream, scratch, a.q, queries, a.dim, kDim),
      .k = make_rows<T>(stream, scratch, a.k, keys, a.dim, kDim),
      .v = make_rows<T>(stream, scratch, a.v, keys, a.dim, kDim),
      .o = static_cast<T*>(a.o),
      .lse = a.lse,
      .num_queries = a.num_queries,
      .num_keys = a.num_keys,
      .dim = a.dim,
      .scale = std::max(std::abs(a.scale) * kLog2E, std::numeric_limits<float>::min()),
      .is_negative = a.scale < 0.0f,
      .pairs = pairs,
      .lists =
          make_tile_lists(stream, scratch, pairs, a.graph.form, a.batch, a.heads, Sizes::kRows),
      .dropout = a.dropout};
  const LaunchShape shape = {
      .grid = persistent_grid(stream, x.lists, Sizes::kBlocksPerSm, Sizes::kSharedBytes),
      .block = kTileThreads,
      .shared_bytes = Sizes::kSharedBytes};
  if (a.dropout.is_on || !a.pattern.is_everything() || x.is_negative) {
    launch(stream, shape, attend_tiles_kernel<T, kDim, true>, x);
  } else {
    launch(stream, shape, attend_tiles_kernel<T, kDim, false>, x);
  }
}

}  // namespace

void attend_tiles(const Stream& stream, const AttendArrays& a, Arena& scratch) {
  const Arena::Scope scope(scratch);
  with_padded_dim(a.dim, [&](auto dim) {
    with_real_type(a.storage, [&](auto zero) { run<decltype(zero), dim()>(stream, a, scratch); });
  });
}

}  // namespace stipple::kernels::cuda
