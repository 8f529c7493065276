// SPDX-License-Identifier: Apache-2.0
// Finishing a graph: degrees, offsets, and all of it once more by key; and what it amounts to.
//   edge_statistics: a block a problem. count_bits: a warp a row. sum_counts: a block a problem, in
//   steps of 2,048 counts, by CUB's scan of a block. transpose_bits: a warp a tile of 128 queries
//   and 128 keys, as sixteen 32 x 32 transposes by shuffles; reads and writes N M / 8 bytes once.
//   CSR by key: rows are cut into chunks of 64 or more, 128 at most, keys into slices of at most
//   2,048. count_columns: a warp a chunk and slice, with a count a key in shared memory;
//   add_chunks: a key a thread, turns counts into offsets; fill_columns: the same warps write row
//   after row, so that indices ascend without sorting. In a row a warp finds where its keys begin
//   by bisection, 32 rows at a time, a lane a row; lanes then take edges, whose keys differ, so
//   there are no atomics. Moves 12 bytes an edge and 16 a chunk and key. Shared memory 8 KiB a
//   warp.
// Expected on an H200 with 32 problems, N = M = 16,384, 1 % (88 M edges): count 0.2 ms, add 0.2 ms,
// fill 0.6 ms (scattered words that merge in L2).
#include <algorithm>
#include <climits>
#include <cub/block/block_scan.cuh>

#include "core/copy.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/edges.h"
#include "kernels/cuda/masks.cuh"

namespace stipple::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// --- degrees and offsets

__global__ void __launch_bounds__(kThreads)
    count_bits_kernel(WritableGraph graph, Wave wave, int64_t n) {
  const int64_t row = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / kWarpSize;
  if (row >= wave.count * n) return;
  const int64_t p = wave.first + row / n;
  const int64_t i = row % n;
  if (graph.form[p] != EdgeForm::kBits) return;
  const uint32_t* bits = graph.by_query + p * graph.query_stride + i * graph.row_words;
  int32_t degree = 0;
  for (int64_t w = lane_index(); w < graph.row_words; w += kWarpSize) degree += popcount(bits[w]);
  degree = lanes_sum(degree);
  if (lane_index() == 0) graph.row_ptr[p * (n + 1) + i + 1] = degree;
}

constexpr int kScanCounts = 8;  // side by side in a thread
using BlockScan = cub::BlockScan<int64_t, kThreads, cub::BLOCK_SCAN_WARP_SCANS>;

// ptr[1..n] from counts to offsets, none beyond the room; returns how many did not fit.
__device__ int64_t sum_counts(int32_t* ptr, int64_t n, int64_t room) {
  __shared__ BlockScan::TempStorage shared;
  int64_t before = 0;
  for (int64_t first = 0; first < n; first += kThreads * kScanCounts) {
    const int64_t own = first + threadIdx.x * kScanCounts;
    int64_t sums[kScanCounts];
#pragma unroll
    for (int c = 0; c < kScanCounts; ++c) sums[c] = own + c < n ? ptr[own + c + 1] : 0;
    int64_t total = 0;
    BlockScan(shared).InclusiveSum(sums, sums, total);
#pragma unroll
    for (int c = 0; c < kScanCounts; ++c) {
      const int64_t sum = before + sums[c];
      if (own + c < n) ptr[own + c + 1] = static_cast<int32_t>(sum < room ? sum : room);
    }
    before += total;
    sync_threads();  // the next scan uses the same memory
  }
  if (threadIdx.x == 0) ptr[0] = 0;
  return before > room ? before - room : 0;
}

// A graph that is too large loses its last edges, and says how many.
__global__ void __launch_bounds__(kThreads)
    sum_degrees_kernel(WritableGraph graph, Wave wave, int64_t n, int64_t most_lost) {
  const int64_t p = wave.first + blockIdx.x;
  const bool is_csr = graph.form[p] == EdgeForm::kCsr;
  const int64_t lost =
      sum_counts(graph.row_ptr + p * (n + 1), n, is_csr ? graph.room() : int64_t{INT32_MAX});
  if (threadIdx.x != 0 || lost == 0) return;
  atomic_add(graph.overflow, static_cast<int32_t>(lost < most_lost ? lost : most_lost));
}

__global__ void __launch_bounds__(kThreads)
    sum_columns_kernel(WritableGraph graph, Wave wave, int64_t m) {
  const int64_t p = wave.first + blockIdx.x;
  if (graph.form[p] != EdgeForm::kCsr) return;
  sum_counts(graph.column_ptr + p * (m + 1), m, graph.room());
}

LaunchShape scan_launch(const Wave& wave) {
  return {.grid = dim3(static_cast<unsigned>(wave.count)), .block = kThreads};
}

// --- bits by key

// Bit c of lane r to bit r of lane c.
__device__ uint32_t transpose_words(uint32_t x) {
  uint32_t low_bits = 0x0000FFFFu;
  for (int width = 16; width > 0; width /= 2, low_bits ^= low_bits << width) {
    const uint32_t other = shuffle_xor(x, width);
    const bool is_high = (lane_index() & width) != 0;
    x = is_high ? (x & ~low_bits) | (other >> width & low_bits)
                : (x & low_bits) | (other & low_bits) << width;
  }
  return x;
}

// In lane order, queries whose bits share a word of a key number 32 of 128, as do keys.
__device__ int64_t lane_token(int word) {
  return lane_index() / 2 * 8 + word * 2 + lane_index() % 2;
}

__global__ void __launch_bounds__(kThreads)
    transpose_bits_kernel(WritableGraph graph, Wave wave, int64_t n, int64_t m) {
  const int64_t query_tiles = graph.column_words / 4;
  const int64_t key_tiles = graph.row_words / 4;
  const int64_t warp = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / kWarpSize;
  const int64_t p = wave.first + warp / query_tiles / key_tiles;
  if (p >= wave.first + wave.count) return;
  if (graph.form != nullptr && graph.form[p] != EdgeForm::kBits) return;
  const int64_t query_tile = warp % query_tiles;
  const int64_t key_tile = warp / query_tiles % key_tiles;
  const uint32_t* from = graph.by_query + p * graph.query_stride + key_tile * 4;
  uint32_t* to = graph.by_key + p * graph.key_stride + query_tile * 4;
  uint32_t turned[4][4];  // [word of the query, of the key]
#pragma unroll
  for (int out = 0; out < 4; ++out) {
    const int64_t i = query_tile * 128 + lane_token(out);
    uint4 words = make_uint4(0, 0, 0, 0);
    if (i < n) words = *reinterpret_cast<const uint4*>(from + i * graph.row_words);
    turned[0][out] = transpose_words(words.x);
    turned[1][out] = transpose_words(words.y);
    turned[2][out] = transpose_words(words.z);
    turned[3][out] = transpose_words(words.w);
  }
#pragma unroll
  for (int in = 0; in < 4; ++in) {
    const int64_t j = key_tile * 128 + lane_token(in);
    if (j >= m) continue;
    *reinterpret_cast<uint4*>(to + j * graph.column_words) =
        make_uint4(turned[in][0], turned[in][1], turned[in][2], turned[in][3]);
  }
}

// --- CSR by key

constexpr int kSliceWarps = 4;  // of a block, each on its own
constexpr int64_t kMostSliceKeys = 2048;

/// How the warps of a launch share a wave.
struct SliceGrid {
  int64_t chunks = 0;  ///< of the rows of a problem
  int64_t chunk_rows = 0;
  int64_t slices = 0;  ///< of its keys
  int64_t slice_keys = 0;
};

/// What a warp works on: rows [begin_row, end_row), keys [first_key, end_key).
struct Slice {
  int64_t w;  ///< the problem within the wave
  int64_t begin_row;
  int64_t end_row;
  int64_t first_key;
  int64_t end_key;
  int32_t* cursors;  ///< of key 0 in this chunk
  int32_t* shared;   ///< a number a key of the slice

  __device__ int64_t num_keys() const { return end_key - first_key; }
};

__device__ Slice slice_of_warp(const SliceGrid& grid, int32_t* cursors, int64_t n, int64_t m) {
  const int64_t warp = int64_t{blockIdx.x} * kSliceWarps + warp_index();
  const int64_t chunk = warp / grid.slices;  // of the wave
  const int64_t begin_row = chunk % grid.chunks * grid.chunk_rows;
  const int64_t end_row = begin_row + grid.chunk_rows;
  const int64_t first_key = warp % grid.slices * grid.slice_keys;
  const int64_t end_key = first_key + grid.slice_keys;
  return {.w = chunk / grid.chunks,
          .begin_row = begin_row,
          .end_row = end_row < n ? end_row : n,
          .first_key = first_key,
          .end_key = end_key < m ? end_key : m,
          .cursors = cursors + chunk * m,
          .shared = reinterpret_cast<int32_t*>(shared_memory()) + warp_index() * grid.slice_keys};
}

/// The first of edges [begin, end) of a row with a key not below `key`.
__device__ int64_t first_edge(const uint32_t* columns, int64_t begin, int64_t end, int64_t key) {
  if (key == 0) return begin;
  while (begin < end) {
    const int64_t middle = begin + (end - begin) / 2;
    if (columns[middle] < key) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

/// This lane's next edge in a row.
struct RowCursor {
  int64_t edge;
  int64_t end;
  uint32_t key;

  __device__ void read(const uint32_t* columns) { key = edge < end ? columns[edge] : ~uint32_t{0}; }
};

/// Calls visit(row, edge, key) for the edges of the slice, row after row. Within a row all keys
/// differ, so lanes never meet. Warp-wide.
template <class Visit>
__device__ void visit_rows(const Slice& slice, const uint32_t* columns, const int32_t* row_ptr,
                           const Visit& visit) {
  for (int64_t first = slice.begin_row; first < slice.end_row; first += kWarpSize) {
    const int64_t own = first + lane_index();
    int64_t begin = 0;
    int64_t end = 0;
    if (own < slice.end_row) {
      end = row_ptr[own + 1];
      begin = first_edge(columns, row_ptr[own], end, slice.first_key);
    }
    const auto start = [&](int r) {
      RowCursor cursor{shuffle(begin, r) + lane_index(), shuffle(end, r), 0};
      cursor.read(columns);
      return cursor;
    };
    const int64_t left = slice.end_row - first;
    const int rows = left < kWarpSize ? static_cast<int>(left) : kWarpSize;
    RowCursor cursor = start(0);
    for (int r = 0; r < rows; ++r) {
      // Keys of the next row are on their way while this one is visited.
      const RowCursor next = start((r + 1) % kWarpSize);
      for (;;) {
        const bool is_mine = cursor.key < slice.end_key;
        if (is_mine) visit(first + r, cursor.edge, cursor.key);
        if (ballot(!is_mine) != 0) break;
        cursor.edge += kWarpSize;
        cursor.read(columns);
      }
      cursor = next;
      sync_warp();  // what lanes wrote for a key, another lane reads for the next row
    }
  }
}

// cursors[j] = the chunk's edges of key j.
__global__ void __launch_bounds__(kSliceWarps* kWarpSize)
    count_columns_kernel(WritableGraph graph, Wave wave, SliceGrid grid, int32_t* cursors,
                         int64_t n, int64_t m) {
  const Slice slice = slice_of_warp(grid, cursors, n, m);
  const int64_t p = wave.first + slice.w;
  if (slice.w >= wave.count || graph.form[p] != EdgeForm::kCsr) return;
  int32_t* counts = slice.shared;
  for (int64_t x = lane_index(); x < slice.num_keys(); x += kWarpSize) counts[x] = 0;
  sync_warp();
  visit_rows(slice, graph.by_query + p * graph.query_stride, graph.row_ptr + p * (n + 1),
             [&](int64_t, int64_t, uint32_t j) { ++counts[j - slice.first_key]; });
  for (int64_t x = lane_index(); x < slice.num_keys(); x += kWarpSize) {
    slice.cursors[slice.first_key + x] = counts[x];
  }
}

// A key's counts in all chunks become where each chunk begins within the key.
__global__ void __launch_bounds__(kThreads)
    add_chunks_kernel(WritableGraph graph, Wave wave, int64_t chunks, int32_t* cursors, int64_t m) {
  constexpr int kAtOnce = 16;  // loads on their way
  const int64_t key = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (key >= wave.count * m) return;
  const int64_t w = key / m;
  const int64_t j = key % m;
  const int64_t p = wave.first + w;
  if (graph.form[p] != EdgeForm::kCsr) return;
  int32_t* of_key = cursors + w * chunks * m + j;
  int32_t before = 0;
  for (int64_t first = 0; first < chunks; first += kAtOnce) {
    int32_t counts[kAtOnce];
#pragma unroll
    for (int c = 0; c < kAtOnce; ++c) {
      counts[c] = first + c < chunks ? of_key[(first + c) * m] : 0;
    }
#pragma unroll
    for (int c = 0; c < kAtOnce; ++c) {
      if (first + c < chunks) of_key[(first + c) * m] = before;
      before += counts[c];
    }
  }
  graph.column_ptr[p * (m + 1) + j + 1] = before;
}

__global__ void __launch_bounds__(kSliceWarps* kWarpSize)
    fill_columns_kernel(WritableGraph graph, Wave wave, SliceGrid grid, int32_t* cursors, int64_t n,
                        int64_t m) {
  const Slice slice = slice_of_warp(grid, cursors, n, m);
  const int64_t p = wave.first + slice.w;
  if (slice.w >= wave.count || graph.form[p] != EdgeForm::kCsr) return;
  int32_t* places = slice.shared;
  const int32_t* column_ptr = graph.column_ptr + p * (m + 1);
#pragma unroll 4
  for (int64_t x = lane_index(); x < slice.num_keys(); x += kWarpSize) {
    const int64_t j = slice.first_key + x;
    places[x] = column_ptr[j] + slice.cursors[j];
  }
  sync_warp();
  const uint16_t* counts = graph.query_multiplicity;
  if (counts != nullptr) counts += p * graph.query_stride;
  visit_rows(slice, graph.by_query + p * graph.query_stride, graph.row_ptr + p * (n + 1),
             [&](int64_t i, int64_t edge, uint32_t j) {
               const int64_t at = p * graph.key_stride + places[j - slice.first_key]++;
               graph.by_key[at] = static_cast<uint32_t>(i);
               if (counts != nullptr) graph.key_multiplicity[at] = counts[edge];
             });
}

SliceGrid slice_grid(int64_t n, int64_t m) {
  const int64_t chunks = transpose_chunks(n);
  const int64_t slices = (m + kMostSliceKeys - 1) / kMostSliceKeys;
  return {.chunks = chunks,
          .chunk_rows = (n + chunks - 1) / chunks,
          .slices = slices,
          .slice_keys = (m + slices - 1) / slices};
}

// --- statistics

struct StatisticsArgs {
  int64_t* edges;          // [H]
  int64_t* pairs;          // [H]
  int64_t* empty_rows;     // [H]
  int64_t* rows;           // [H]
  const int32_t* row_ptr;  // [P, N + 1]
  const uint8_t* query_mask;
  const uint8_t* key_mask;
  int64_t heads, n, m;
};

/// Block p counts problem p; integers, so the order of the blocks cannot show.
__global__ void __launch_bounds__(kThreads) edge_statistics_kernel(StatisticsArgs args) {
  const int64_t p = blockIdx.x;
  const int64_t sample = p / args.heads;
  const int32_t* row_ptr = args.row_ptr + p * (args.n + 1);
  const uint8_t* real_queries =
      args.query_mask == nullptr ? nullptr : args.query_mask + sample * args.n;
  const uint8_t* real_keys = args.key_mask == nullptr ? nullptr : args.key_mask + sample * args.m;
  int64_t queries = 0;
  int64_t empty = 0;
  for (int64_t i = threadIdx.x; i < args.n; i += kThreads) {
    const bool real = is_real(real_queries, i);
    queries += real ? 1 : 0;
    empty += real && row_ptr[i] == row_ptr[i + 1] ? 1 : 0;
  }
  auto* sums = reinterpret_cast<int64_t*>(shared_memory());
  queries = block_sum<kThreads>(queries, sums);
  empty = block_sum<kThreads>(empty, sums);
  const int64_t keys = count_real<kThreads>(real_keys, args.m, sums);
  if (threadIdx.x != 0) return;
  const int64_t head = p % args.heads;
  atomic_add(args.edges + head, int64_t{row_ptr[args.n]});
  atomic_add(args.pairs + head, queries * keys);
  atomic_add(args.empty_rows + head, empty);
  atomic_add(args.rows + head, queries);
}

template <class T>
T* data_or_null(const View<T>& view) {
  return view.empty() ? nullptr : view.data;
}

}  // namespace

View<int32_t> alloc_cursors(Arena& scratch, const EdgeSet& edges) {
  constexpr int64_t kWaveBytes = 64 << 20;
  const int64_t chunks = transpose_chunks(edges.num_queries);
  const int64_t bytes = std::max<int64_t>(1, chunks * edges.num_keys * 4);
  const int64_t problems = std::max<int64_t>(1, edges.num_problems());
  return scratch.alloc<int32_t>(
      {std::clamp<int64_t>(kWaveBytes / bytes, 1, problems), chunks, edges.num_keys});
}

WritableGraph writable_graph(const EdgeSet& edges) {
  return {.num_queries = edges.num_queries,
          .num_keys = edges.num_keys,
          .form = edges.form.data,
          .row_ptr = edges.row_ptr.data,
          .column_ptr = edges.column_ptr.data,
          .by_query = edges.storage.data,
          .by_key = edges.transposed.data,
          .query_multiplicity = data_or_null(edges.multiplicity),
          .key_multiplicity = data_or_null(edges.transposed_multiplicity),
          .overflow = edges.overflow.data,
          .query_stride = edges.storage.shape[1],
          .key_stride = edges.transposed.shape[1],
          .row_words = edges.words_per_row(),
          .column_words = edges.words_per_column(),
          .has_bits = has_room_for_bits(edges)};
}

void count_bits(const Stream& stream, const WritableGraph& graph, const Wave& wave) {
  const int64_t n = graph.num_queries;
  launch(stream, {.grid = blocks_for(wave.count * n * kWarpSize, kThreads), .block = kThreads},
         count_bits_kernel, graph, wave, n);
}

void sum_degrees(const Stream& stream, const WritableGraph& graph, const Wave& wave,
                 int64_t problems) {
  const int64_t n = graph.num_queries;
  launch(stream, scan_launch(wave), sum_degrees_kernel, graph, wave, n,
         int64_t{INT32_MAX} / problems);
}

void transpose_bits(const Stream& stream, const WritableGraph& graph, const Wave& wave) {
  const int64_t tiles = graph.column_words / 4 * (graph.row_words / 4);
  launch(stream, {.grid = blocks_for(wave.count * tiles * kWarpSize, kThreads), .block = kThreads},
         transpose_bits_kernel, graph, wave, graph.num_queries, graph.num_keys);
}

void transpose_csr(const Stream& stream, const WritableGraph& graph, const Wave& wave,
                   View<int32_t> cursors) {
  const int64_t n = graph.num_queries;
  const int64_t m = graph.num_keys;
  const SliceGrid grid = slice_grid(n, m);
  const LaunchShape slices = {
      .grid = blocks_for(wave.count * grid.chunks * grid.slices, kSliceWarps),
      .block = kSliceWarps * kWarpSize,
      .shared_bytes = kSliceWarps * static_cast<size_t>(grid.slice_keys) * sizeof(int32_t)};
  launch(stream, slices, count_columns_kernel, graph, wave, grid, cursors.data, n, m);
  launch(stream, {.grid = blocks_for(wave.count * m, kThreads), .block = kThreads},
         add_chunks_kernel, graph, wave, grid.chunks, cursors.data, m);
  launch(stream, scan_launch(wave), sum_columns_kernel, graph, wave, m);
  launch(stream, slices, fill_columns_kernel, graph, wave, grid, cursors.data, n, m);
}

void edge_statistics(const Stream& stream, const EdgeStatistics& args) {
  for (View<int64_t> counts : {args.edges, args.pairs, args.empty_rows, args.rows}) {
    fill_zero(stream, counts);
  }
  const EdgeSet& graph = args.graph;
  launch(stream,
         {.grid = blocks_for(graph.num_problems(), 1),
          .block = kThreads,
          .shared_bytes = kThreads / kWarpSize * sizeof(int64_t)},
         edge_statistics_kernel,
         StatisticsArgs{args.edges.data, args.pairs.data, args.empty_rows.data, args.rows.data,
                        graph.row_ptr.data, args.query_mask.data, args.key_mask.data,
                        args.edges.shape[0], graph.num_queries, graph.num_keys});
}

}  // namespace stipple::kernels::cuda
