// SPDX-License-Identifier: Apache-2.0
// sample_edges: gives every problem a form by its expected density, launches both samplers, and
// finishes the graph: degrees, offsets, and all of it once more by key.
//   choose_forms: a block a problem. count_bits: a warp a row. sum_counts: a block a problem, in
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
#include "kernels/cuda/sample/parts.h"

namespace stipple::kernels::cuda {
namespace {

constexpr int kThreads = 256;

template <class T>
__device__ T warp_sum(T x) {
  for (int step = kWarpSize / 2; step > 0; step /= 2) x += shuffle_xor(x, step);
  return x;
}

// --- forms

/// Sum over the block; `sums` has room for a number a warp.
__device__ int64_t block_sum(int64_t x, int64_t* sums) {
  x = warp_sum(x);
  if (lane_index() == 0) sums[warp_index()] = x;
  sync_threads();
  int64_t total = 0;
  for (int warp = 0; warp * kWarpSize < static_cast<int>(blockDim.x); ++warp) total += sums[warp];
  sync_threads();
  return total;
}

__device__ int64_t count_real(const uint8_t* mask, int64_t n, int64_t* sums) {
  if (mask == nullptr) return n;
  int64_t count = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) count += mask[i] != 0 ? 1 : 0;
  return block_sum(count, sums);
}

// kAuto: as the CPU decides.
__device__ bool is_dense(const SampleInputs& in, int64_t p, int64_t real_queries, int64_t real_keys,
                         double tile_density) {
  const auto queries = static_cast<double>(real_queries);
  const auto keys = static_cast<double>(real_keys);
  const double loops = in.self_loop ? queries : 0.0;
  const double edges = in.expected[p] + static_cast<double>(in.delta) * queries * keys + loops;
  // Bits cannot overflow; what to do about the numbers is the trainer's business.
  if (isnan(edges)) return true;
  return edges > 0.0 && edges >= tile_density * queries * keys;
}

__global__ void __launch_bounds__(kThreads)
    choose_forms_kernel(SampleInputs in, SampledGraph graph, double tile_density) {
  auto* sums = reinterpret_cast<int64_t*>(shared_memory());
  const int64_t p = blockIdx.x;
  bool is_bits = graph.has_bits && in.law != MaskLaw::kPoissonMulti;
  if (in.sampler == SamplerKind::kRows) is_bits = false;
  if (in.sampler == SamplerKind::kAuto && is_bits) {
    const SampleProblem problem = in.problem(p);
    const int64_t queries = count_real(problem.query_mask, in.num_queries, sums);
    const int64_t keys = count_real(problem.key_mask, in.num_keys, sums);
    is_bits = is_dense(in, p, queries, keys, tile_density);
  }
  if (threadIdx.x != 0) return;
  graph.form[p] = is_bits ? EdgeForm::kBits : EdgeForm::kCsr;
  if (p == 0) *graph.overflow = 0;
}

void choose_forms(const SampleCall& call, int64_t problems, double tile_density) {
  launch(call.stream,
         {.grid = dim3(static_cast<unsigned>(problems)),
          .block = kThreads,
          .shared_bytes = kThreads / kWarpSize * sizeof(int64_t)},
         choose_forms_kernel, call.inputs, call.graph, tile_density);
}

// --- degrees and offsets

__global__ void __launch_bounds__(kThreads)
    count_bits_kernel(SampledGraph graph, Wave wave, int64_t n) {
  const int64_t row = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / kWarpSize;
  if (row >= wave.count * n) return;
  const int64_t p = wave.first + row / n;
  const int64_t i = row % n;
  if (graph.form[p] != EdgeForm::kBits) return;
  const uint32_t* bits = graph.by_query + p * graph.query_stride + i * graph.row_words;
  int32_t degree = 0;
  for (int64_t w = lane_index(); w < graph.row_words; w += kWarpSize) degree += popcount(bits[w]);
  degree = warp_sum(degree);
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
    sum_degrees_kernel(SampledGraph graph, Wave wave, int64_t n, int64_t most_lost) {
  const int64_t p = wave.first + blockIdx.x;
  const bool is_csr = graph.form[p] == EdgeForm::kCsr;
  const int64_t lost =
      sum_counts(graph.row_ptr + p * (n + 1), n, is_csr ? graph.room() : int64_t{INT32_MAX});
  if (threadIdx.x != 0 || lost == 0) return;
  atomic_add(graph.overflow, static_cast<int32_t>(lost < most_lost ? lost : most_lost));
}

__global__ void __launch_bounds__(kThreads)
    sum_columns_kernel(SampledGraph graph, Wave wave, int64_t m) {
  const int64_t p = wave.first + blockIdx.x;
  if (graph.form[p] != EdgeForm::kCsr) return;
  sum_counts(graph.column_ptr + p * (m + 1), m, graph.room());
}

LaunchShape scan_launch(const Wave& wave) {
  return {.grid = dim3(static_cast<unsigned>(wave.count)), .block = kThreads};
}

void count_bits(const SampleCall& call, const Wave& wave) {
  const int64_t n = call.inputs.num_queries;
  launch(call.stream, {.grid = blocks_for(wave.count * n * kWarpSize, kThreads), .block = kThreads},
         count_bits_kernel, call.graph, wave, n);
}

void sum_degrees(const SampleCall& call, const Wave& wave, int64_t problems) {
  const int64_t n = call.inputs.num_queries;
  launch(call.stream, scan_launch(wave), sum_degrees_kernel, call.graph, wave, n,
         int64_t{INT32_MAX} / problems);
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
    transpose_bits_kernel(SampledGraph graph, Wave wave, int64_t n, int64_t m) {
  const int64_t query_tiles = graph.column_words / 4;
  const int64_t key_tiles = graph.row_words / 4;
  const int64_t warp = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / kWarpSize;
  const int64_t p = wave.first + warp / query_tiles / key_tiles;
  if (p >= wave.first + wave.count || graph.form[p] != EdgeForm::kBits) return;
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

void transpose_bits(const SampleCall& call, const Wave& wave) {
  const int64_t tiles = call.graph.column_words / 4 * (call.graph.row_words / 4);
  launch(call.stream,
         {.grid = blocks_for(wave.count * tiles * kWarpSize, kThreads), .block = kThreads},
         transpose_bits_kernel, call.graph, wave, call.inputs.num_queries, call.inputs.num_keys);
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
    count_columns_kernel(SampledGraph graph, Wave wave, SliceGrid grid, int32_t* cursors, int64_t n,
                         int64_t m) {
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
    add_chunks_kernel(SampledGraph graph, Wave wave, int64_t chunks, int32_t* cursors, int64_t m) {
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
    fill_columns_kernel(SampledGraph graph, Wave wave, SliceGrid grid, int32_t* cursors, int64_t n,
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

void build_columns(const SampleCall& call, const Wave& wave) {
  const int64_t n = call.inputs.num_queries;
  const int64_t m = call.inputs.num_keys;
  int32_t* cursors = call.scratch.cursors.data;
  const SliceGrid grid = slice_grid(n, m);
  const LaunchShape slices = {
      .grid = blocks_for(wave.count * grid.chunks * grid.slices, kSliceWarps),
      .block = kSliceWarps * kWarpSize,
      .shared_bytes = kSliceWarps * static_cast<size_t>(grid.slice_keys) * sizeof(int32_t)};
  launch(call.stream, slices, count_columns_kernel, call.graph, wave, grid, cursors, n, m);
  launch(call.stream, {.grid = blocks_for(wave.count * m, kThreads), .block = kThreads},
         add_chunks_kernel, call.graph, wave, grid.chunks, cursors, m);
  launch(call.stream, scan_launch(wave), sum_columns_kernel, call.graph, wave, m);
  launch(call.stream, slices, fill_columns_kernel, call.graph, wave, grid, cursors, n, m);
}

// --- host

template <class T>
T* data_or_null(const View<T>& view) {
  return view.empty() ? nullptr : view.data;
}

SampleInputs sample_inputs(const SampleEdges& args) {
  return {.storage = args.mu.precision,
          .mu = args.mu.data,
          .z = args.z.data,
          .expected = args.expected.data,
          .query_mask = data_or_null(args.query_mask),
          .key_mask = data_or_null(args.key_mask),
          .samples = args.samples.data,
          .heads = args.mu.shape[1],
          .num_queries = args.edges.num_queries,
          .num_keys = args.edges.num_keys,
          .num_clusters = args.mu.shape[3],
          .law = args.law,
          .sampler = args.sampler,
          .delta = args.delta,
          .self_loop = args.self_loop,
          .rng = args.rng,
          .layer = args.layer,
          .first_head = args.first_head};
}

SampledGraph sampled_graph(const EdgeSet& edges) {
  return {.form = edges.form.data,
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

// Which forms are possible is known from the arguments; which one a problem has, only on the
// device.
void sample_wave(const SampleCall& call, const Wave& wave, int64_t problems) {
  const SampleInputs& in = call.inputs;
  const bool may_have_bits =
      call.graph.has_bits && in.law != MaskLaw::kPoissonMulti && in.sampler != SamplerKind::kRows;
  const bool may_have_csr = in.sampler != SamplerKind::kTiles || !may_have_bits;
  if (may_have_bits) {
    sample_tiles(call, wave);
    count_bits(call, wave);
  }
  if (may_have_csr) draw_rows(call, wave);
  sum_degrees(call, wave, problems);
  if (may_have_bits) transpose_bits(call, wave);
  if (may_have_csr) {
    place_rows(call, wave);
    build_columns(call, wave);
  }
}

}  // namespace

void sample_edges(const Stream& stream, const SampleEdges& args, const SampleScratch& scratch) {
  const int64_t problems = args.edges.num_problems();
  const SampleCall call{stream, sample_inputs(args), sampled_graph(args.edges), scratch.cuda};
  if (problems == 0) return fill_zero(stream, args.edges.overflow);
  choose_forms(call, problems, args.edges.capacity.tile_density);
  if (args.edges.num_queries == 0 || args.edges.num_keys == 0) {
    fill_zero(stream, args.edges.row_ptr);
    fill_zero(stream, args.edges.column_ptr);
    return;
  }
  for (int64_t first = 0; first < problems; first += scratch.cuda.wave) {
    sample_wave(call, {first, std::min(scratch.cuda.wave, problems - first)}, problems);
  }
}

}  // namespace stipple::kernels::cuda
