// SPDX-License-Identifier: Apache-2.0
// What the tile kernels of attention need before they start: key masks as bits in lane order, for
// each row block the ascending list of tiles that hold any pair, the row blocks ordered by length
// of their lists, and operands padded to a native head dimension.
//
// Lists: one block of 4 warps for each (problem, row block); a warp looks at 128 columns at a time,
// 8 rows in one load, and stops as soon as both tiles are known to hold a pair: at densities above
// 1 % it reads a sixteenth of the bits or less. Order: one block of 1024 threads, a stable counting
// sort by length in kClasses steps with CUB's scan, so that neighbours mostly stay neighbours and
// share keys in L2. Shared memory: 128 bytes (lists), 33 KB (order).
#include <cub/block/block_scan.cuh>

#include "kernels/cuda/attend/tiles.cuh"

namespace stipple::kernels::cuda {
namespace {

constexpr int kWordBits = 32;
constexpr int kGroupColumns = 128;  // four words of BitOrder::kLanes
constexpr int kTilesPerGroup = kGroupColumns / kTileColumns;

// --- masks as words ------------------------------------------------------------------------------

__global__ void column_words_kernel(uint32_t* words, const uint8_t* mask, int64_t columns,
                                    int64_t words_per_row, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const int64_t word = i % words_per_row;
  const uint8_t* row = mask == nullptr ? nullptr : mask + i / words_per_row * columns;
  uint32_t bits = 0;
  for (int bit = 0; bit < kWordBits; ++bit) {
    const int64_t column = word / 4 * kGroupColumns + bit / 2 * 8 + word % 4 * 2 + bit % 2;
    if (column < columns && (row == nullptr || row[column] != 0)) bits |= 1u << bit;
  }
  words[i] = bits;
}

// --- lists of tiles ------------------------------------------------------------------------------

/// Bit h: does any lane have a bit in half h of its word?
__device__ uint32_t halves_with_bits(uint32_t word) {
  const uint32_t low = ballot((word & 0xFFFFu) != 0) != 0 ? 1u : 0u;
  const uint32_t high = ballot(word >> 16 != 0) != 0 ? 2u : 0u;
  return low | high;
}

/// Bit h: does tile kTilesPerGroup * group + h hold a pair of rows [first_row, last_row)?
__device__ uint32_t probe_group(const PairBits& pairs, int64_t problem, int64_t sample,
                                int64_t first_row, int64_t last_row, int64_t group) {
  constexpr int kRowsPerLoad = 8;
  const uint32_t valid = pairs.valid(sample)[group * 4 + lane_index() % 4];
  const uint32_t possible = halves_with_bits(valid);
  uint32_t found = 0;
  for (int64_t row = first_row; row < last_row && found != possible; row += kRowsPerLoad) {
    const int64_t own = row + lane_index() / 4;
    const bool counts = own < last_row && pairs.has_row(sample, own);
    const uint32_t word = counts ? pairs.row_word(problem, own, group * kTilesPerGroup) : 0u;
    found |= halves_with_bits(word & valid);
  }
  return found;
}

constexpr int kListWords = 32;
constexpr int kListTiles = kListWords * kWordBits;  // looked at between two barriers

struct ListArrays {
  int32_t* counts;
  int32_t* tiles;
  int64_t blocks;
  int64_t tiles_per_block;
};

/// Appends the tiles whose bit is set; returns how many. All threads of the block get it.
__device__ int append_tiles(const uint32_t* live, int64_t first_tile, int32_t* list) {
  int before[kListWords + 1];
  before[0] = 0;
#pragma unroll
  for (int w = 0; w < kListWords; ++w) before[w + 1] = before[w] + popcount(live[w]);
#pragma unroll
  for (int w = 0; w < kListWords; ++w) {
    if (w % kTileWarps != warp_index()) continue;
    const uint32_t own = 1u << lane_index();
    if ((live[w] & own) == 0) continue;
    list[before[w] + popcount(live[w] & (own - 1))] =
        static_cast<int32_t>(first_tile) + w * kWordBits + lane_index();
  }
  return before[kListWords];
}

__global__ void tile_lists_kernel(PairBits pairs, const EdgeForm* form, int64_t heads,
                                  int rows_per_block, ListArrays lists) {
  auto* live = reinterpret_cast<uint32_t*>(shared_memory());
  const int64_t item = blockIdx.x;
  const int64_t problem = item / lists.blocks;
  const int64_t first_row = item % lists.blocks * rows_per_block;
  const int64_t last_row = first_row + rows_per_block;
  const bool is_ours = form == nullptr || form[problem] == EdgeForm::kBits;
  const int64_t groups = (pairs.num_columns + kGroupColumns - 1) / kGroupColumns;
  int count = 0;
  for (int64_t tile = 0; is_ours && tile < lists.tiles_per_block; tile += kListTiles) {
    sync_threads();
    if (threadIdx.x < kListWords) live[threadIdx.x] = 0;
    sync_threads();
    for (int g = warp_index(); g < kListTiles / kTilesPerGroup; g += kTileWarps) {
      const int64_t group = tile / kTilesPerGroup + g;
      if (group >= groups) break;
      const uint32_t found =
          probe_group(pairs, problem, problem / heads, first_row, last_row, group);
      const int bit = g * kTilesPerGroup;
      if (lane_index() == 0) atomic_or(&live[bit / kWordBits], found << bit % kWordBits);
    }
    sync_threads();
    count += append_tiles(live, tile, lists.tiles + item * lists.tiles_per_block + count);
  }
  if (threadIdx.x == 0) lists.counts[item] = is_ours ? count : -1;
}

// --- order of the row blocks ---------------------------------------------------------------------

constexpr int kOrderThreads = 1024;
constexpr int kClasses = 8;  // 0: the longest lists; the last two: empty ones, CSR

__device__ int class_of(int32_t count, int64_t most) {
  if (count <= 0) return kClasses - 2 - count;
  return static_cast<int>((most - count) * (kClasses - 2) / most);
}

/// Turns counts[class][thread] into where the thread's first item of the class goes.
__device__ void scan_in_place(int32_t* counts) {
  using BlockScan = cub::BlockScan<int32_t, kOrderThreads, cub::BLOCK_SCAN_WARP_SCANS>;
  __shared__ BlockScan::TempStorage shared;
  int32_t* own = counts + threadIdx.x * kClasses;
  int32_t sums[kClasses];
#pragma unroll
  for (int x = 0; x < kClasses; ++x) sums[x] = own[x];
  BlockScan(shared).ExclusiveSum(sums, sums);
#pragma unroll
  for (int x = 0; x < kClasses; ++x) own[x] = sums[x];
  sync_threads();
}

__global__ void __launch_bounds__(kOrderThreads)
    order_kernel(int32_t* order, uint32_t* taken, const int32_t* counts, int64_t items,
                 int64_t most) {
  auto* places = reinterpret_cast<int32_t*>(shared_memory());
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) *taken = 0;  // here, so that every call and every replay starts with it
  const int64_t share = (items + kOrderThreads - 1) / kOrderThreads;
  const int64_t first = thread * share;
  const int64_t last = first + share < items ? first + share : items;
  for (int c = 0; c < kClasses; ++c) places[c * kOrderThreads + thread] = 0;
  for (int64_t i = first; i < last; ++i) {
    ++places[class_of(counts[i], most) * kOrderThreads + thread];
  }
  sync_threads();
  scan_in_place(places);
  for (int64_t i = first; i < last; ++i) {
    order[places[class_of(counts[i], most) * kOrderThreads + thread]++] = static_cast<int32_t>(i);
  }
}

// --- operands ------------------------------------------------------------------------------------

constexpr int kRowThreads = 256;
template <class T>
constexpr int kPerThread = sizeof(uint4) / sizeof(T);

/// kWhole: rows of `from` start on 16 bytes and hold a multiple of 16 bytes.
template <class T, bool kWhole>
__global__ void rows_kernel(T* to, const T* from, int64_t rows, int64_t dim, int64_t padded) {
  const int64_t first = (int64_t{blockIdx.x} * kRowThreads + threadIdx.x) * kPerThread<T>;
  const int64_t row = first / padded;
  const int64_t column = first % padded;
  if (row >= rows) return;
  const T* source = from + row * dim + column;
  if (kWhole) {
    *reinterpret_cast<uint4*>(to + first) =
        column < dim ? *reinterpret_cast<const uint4*>(source) : uint4{};
  } else {
#pragma unroll
    for (int e = 0; e < kPerThread<T>; ++e) {
      to[first + e] = column + e < dim ? source[e] : T{};
    }
  }
}

void check_sizes(int64_t blocks, const PairBits& pairs) {
  constexpr int64_t kMostBlocks = (int64_t{1} << 31) - 1;
  STIPPLE_CHECK(blocks <= kMostBlocks, "attention on CUDA: ", blocks,
                " blocks of rows, at most 2^31 - 1; use a smaller batch");
  STIPPLE_CHECK(pairs.bits == nullptr || pairs.num_rows * pairs.words_per_row < int64_t{1} << 32,
                "attention on CUDA: bits of ", pairs.num_rows, " x ", pairs.num_columns,
                " pairs take more than 2^32 words of a problem; use shorter sequences");
}

}  // namespace

View<uint32_t> make_column_words(const Stream& stream, Arena& scratch, const uint8_t* mask,
                                 int64_t batch, int64_t columns) {
  constexpr int kThreads = 128;
  const int64_t per_row = bit_words(BitOrder::kLanes, columns);
  const View<uint32_t> words = scratch.alloc<uint32_t>({batch, per_row});
  launch(stream, {.grid = blocks_for(words.numel(), kThreads), .block = kThreads},
         column_words_kernel, words.data, mask, columns, per_row, words.numel());
  return words;
}

PairBits bits_by_query(const Stream& stream, const AttendArrays& a, Arena& scratch) {
  const bool is_masked = a.key_mask != nullptr;
  const View<uint32_t> valid =
      make_column_words(stream, scratch, a.key_mask, is_masked ? a.batch : 1, a.num_keys);
  return {.bits = a.graph.form == nullptr ? nullptr : a.graph.by_query,
          .stride = a.graph.query_stride,
          .words_per_row = bit_words(BitOrder::kLanes, a.num_keys),
          .num_rows = a.num_queries,
          .num_columns = a.num_keys,
          .valid_columns = valid.data,
          .valid_stride = is_masked ? valid.shape[1] : 0,
          .pattern = a.pattern};
}

PairBits bits_by_key(const Stream& stream, const AttendArrays& a, Arena& scratch) {
  return {.bits = a.graph.form == nullptr ? nullptr : a.graph.by_key,
          .stride = a.graph.key_stride,
          .words_per_row = bit_words(BitOrder::kLanes, a.num_queries),
          .num_rows = a.num_keys,
          .num_columns = a.num_queries,
          .row_mask = a.key_mask,
          .valid_columns = make_column_words(stream, scratch, nullptr, 1, a.num_queries).data,
          .valid_stride = 0,
          .pattern = a.pattern,
          .rows_are_keys = true};
}

TileLists make_tile_lists(const Stream& stream, Arena& scratch, const PairBits& pairs,
                          const EdgeForm* form, int64_t batch, int64_t heads, int rows_per_block) {
  const int64_t blocks = (pairs.num_rows + rows_per_block - 1) / rows_per_block;
  const int64_t tiles = (pairs.num_columns + kTileColumns - 1) / kTileColumns;
  const int64_t items = batch * heads * blocks;
  check_sizes(items, pairs);
  const ListArrays lists = {.counts = scratch.alloc<int32_t>({items}).data,
                            .tiles = scratch.alloc<int32_t>({items, tiles}).data,
                            .blocks = blocks,
                            .tiles_per_block = tiles};
  int32_t* order = scratch.alloc<int32_t>({items}).data;
  uint32_t* taken = scratch.alloc<uint32_t>({1}).data;
  launch(stream,
         {.grid = blocks_for(items, 1),
          .block = kTileThreads,
          .shared_bytes = kListWords * sizeof(uint32_t)},
         tile_lists_kernel, pairs, form, heads, rows_per_block, lists);
  launch(stream,
         {.grid = 1,
          .block = kOrderThreads,
          .shared_bytes = kClasses * kOrderThreads * sizeof(int32_t)},
         order_kernel, order, taken, lists.counts, items, tiles);
  return {.counts = lists.counts,
          .tiles = lists.tiles,
          .order = order,
          .taken = taken,
          .items = items,
          .blocks = blocks,
          .tiles_per_block = tiles,
          .heads = heads};
}

template <class T>
const T* make_rows(const Stream& stream, Arena& scratch, const void* memory, int64_t rows,
                   int64_t dim, int64_t padded) {
  const auto* from = static_cast<const T*>(memory);
  const bool is_aligned = reinterpret_cast<uintptr_t>(from) % sizeof(uint4) == 0;
  STIPPLE_CHECK(is_aligned || dim != padded, "attention on CUDA: operands must start on 16 bytes");
  if (dim == padded) return from;
  const View<T> to = scratch.alloc<T>({rows, padded});
  const LaunchShape shape = {.grid = blocks_for(to.numel() / kPerThread<T>, kRowThreads),
                             .block = kRowThreads};
  if (dim % kPerThread<T> == 0 && is_aligned) {
    launch(stream, shape, rows_kernel<T, true>, to.data, from, rows, dim, padded);
  } else {
    launch(stream, shape, rows_kernel<T, false>, to.data, from, rows, dim, padded);
  }
  return to.data;
}
template const float* make_rows<float>(const Stream&, Arena&, const void*, int64_t, int64_t,
                                       int64_t);
template const bf16* make_rows<bf16>(const Stream&, Arena&, const void*, int64_t, int64_t, int64_t);

}  // namespace stipple::kernels::cuda
