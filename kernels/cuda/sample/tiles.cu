// SPDX-License-Identifier: Apache-2.0
// The tile sampler: every pair looks at its own uniform. Probabilities of a tile of pairs are
// summed in registers, each is compared with a word of Philox, and what comes out is one bit a pair
// in lane order (kernels/edges.h); no probability ever reaches memory.
//   fp32: a block has 64 queries and goes through 128 keys at a time; thread (y, x) = (t / 16, t %
//   16) holds queries 8 y..8 y + 7 and keys 4 x..4 x + 3 and 64 + 4 x..: two Philox blocks a query.
//   Sums run over k ascending: the CPU's bits. Shared memory 15 KiB.
//   bf16: a block has 128 queries, a warp 32 of them, and goes through 64 keys at a time by
//   mma.m16n8k16. Factors that are stored as bf16 are read where they are; others, and those whose
//   K is not a multiple of 16, are first copied. Keys are permuted in shared memory so that a lane's
//   sums are the pairs of whole Philox blocks; its bits change places at the end of a tile. The next
//   keys arrive while bits are drawn. Shared memory 51 KiB; three blocks on a multiprocessor.
#include "core/error.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/sample/parts.h"
#include "kernels/math/thinning.h"

namespace stipple::kernels::cuda {
namespace {

constexpr int kTileKeys = 128;  // four words of bits

/// How the blocks of a launch share a wave: rows, and runs of key tiles where there are few rows.
struct TileGrid {
  int64_t first_problem = 0;
  int64_t row_tiles = 0;
  int64_t key_tiles = 0;
  int64_t runs = 0;
  int64_t tiles_per_run = 0;
};
struct TileBlock {
  int64_t problem;
  int64_t first_row;
  int64_t begin_tile;
  int64_t end_tile;
};

__device__ TileBlock this_block(const TileGrid& grid, int rows) {
  const int64_t block = blockIdx.x;
  const int64_t begin = block % grid.runs * grid.tiles_per_run;
  const int64_t end = begin + grid.tiles_per_run;
  return {.problem = grid.first_problem + block / grid.runs / grid.row_tiles,
          .first_row = block / grid.runs % grid.row_tiles * rows,
          .begin_tile = begin,
          .end_tile = end < grid.key_tiles ? end : grid.key_tiles};
}

/// The column of a 128-key tile that bit `bit` of word `word` stands for.
__device__ int bit_column(int word, int bit) { return bit / 2 * 8 + word * 2 + bit % 2; }

/// Word `word` of a tile's real keys. Warp-wide.
__device__ uint32_t real_keys(const SampleProblem& problem, int64_t num_keys, int64_t tile,
                              int word) {
  const int64_t j = tile * kTileKeys + bit_column(word, lane_index());
  return ballot(j < num_keys && problem.is_real_key(j));
}

/// The bits of the keys at most in.window_radius from query i, in word `word` of tile `tile` of its row.
__device__ uint32_t window_bits(const SampleInputs& in, int64_t i, int64_t tile, int word) {
  const int64_t begin = i - in.window_radius - tile * kTileKeys;
  const int64_t end = i + in.window_radius + 1 - tile * kTileKeys;
  if (in.window_radius < 0 || begin >= kTileKeys || end <= 0) return 0;
  uint32_t bits = 0;
#pragma unroll 4
  for (int bit = 0; bit < 32; ++bit) {
    const int column = bit_column(word, bit);
    bits |= column >= begin && column < end ? 1u << bit : 0u;
  }
  return bits;
}

template <bool kCollapse>
__device__ bool is_kept(float p, uint32_t word) {
  if constexpr (kCollapse) p = math::positive_probability(fmaxf(p, 0.0f));
  return word >> 1 < math::keep_threshold(p);
}

// --- fp32

constexpr int kExactRows = 64;
constexpr int kExactThreads = 128;
constexpr int kExactDepth = 16;  // of k at a time
constexpr int kPerThread = 8;    // rows and columns

struct ExactShared {
  alignas(16) float mu[kExactDepth][kExactRows + 4];
  alignas(16) float z[kExactDepth][kTileKeys + 4];
  uint8_t kept[kExactRows][kTileKeys / 4];  // four bits each: the pairs of a Philox block
  uint32_t real[4];
};

// to[k][row] = from[first + row][first_k + k], zeros beyond the end.
template <int kRows>
__device__ void load_exact(float (*to)[kRows + 4], const float* from, int64_t first, int64_t rows,
                           int64_t first_k, int64_t num_clusters) {
  for (int e = static_cast<int>(threadIdx.x); e < kRows * kExactDepth; e += kExactThreads) {
    const int k = e % kExactDepth;
    const int row = e / kExactDepth;
    const bool exists = first + row < rows && first_k + k < num_clusters;
    to[k][row] = exists ? from[(first + row) * num_clusters + first_k + k] : 0.0f;
  }
}

__device__ void multiply_exact(const ExactShared& shared, int y, int x,
                               float (&sums)[kPerThread][kPerThread]) {
#pragma unroll
  for (int k = 0; k < kExactDepth; ++k) {
    float m[kPerThread], z[kPerThread];
#pragma unroll
    for (int e = 0; e < kPerThread; ++e) {
      m[e] = shared.mu[k][y * kPerThread + e];
      z[e] = shared.z[k][e / 4 * 64 + x * 4 + e % 4];
    }
#pragma unroll
    for (int r = 0; r < kPerThread; ++r) {
#pragma unroll
      for (int c = 0; c < kPerThread; ++c) sums[r][c] = fmaf(m[r], z[c], sums[r][c]);
    }
  }
}

template <bool kCollapse>
__device__ void draw_exact(const SampleInputs& in, const SampleProblem& problem, int64_t first_row,
                           int64_t tile, const float (&sums)[kPerThread][kPerThread],
                           ExactShared& shared) {
  const int y = static_cast<int>(threadIdx.x) / 16;
  const int x = static_cast<int>(threadIdx.x) % 16;
#pragma unroll
  for (int r = 0; r < kPerThread; ++r) {
    const int row = y * kPerThread + r;
    PhiloxCounter counter =
        in.counter(problem, static_cast<uint32_t>(first_row + row), Purpose::kEdgeTile);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int quad = half * 16 + x;
      counter[0] = static_cast<uint32_t>(tile * (kTileKeys / 4) + quad);
      const PhiloxCounter words = philox4x32(counter, problem.key);
      uint32_t bits = 0;
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        bits |=
            is_kept<kCollapse>(sums[r][half * 4 + c], words[static_cast<size_t>(c)]) ? 1u << c : 0u;
      }
      shared.kept[row][quad] = static_cast<uint8_t>(bits);
    }
  }
}

// Thread 2 r + h puts words 2 h and 2 h + 1 of row r together.
__device__ void store_exact(const SampleInputs& in, const WritableGraph& graph,
                            const SampleProblem& problem, const TileBlock& block, int64_t tile,
                            const ExactShared& shared) {
  const int row = static_cast<int>(threadIdx.x) / 2;
  const int half = static_cast<int>(threadIdx.x) % 2;
  const int64_t i = block.first_row + row;
  if (i >= in.num_queries) return;
  uint32_t words[2] = {0, 0};
#pragma unroll
  for (int v = 0; v < 16; ++v) {
    const uint32_t bits = shared.kept[row][2 * v + half];
    words[0] |= (bits & 3u) << (2 * v);
    words[1] |= bits >> 2 << (2 * v);
  }
  const bool is_real = problem.is_real_query(i);
  uint32_t* out =
      graph.by_query + block.problem * graph.query_stride + i * graph.row_words + tile * 4;
#pragma unroll
  for (int w = 0; w < 2; ++w) {
    const int word = 2 * half + w;
    const uint32_t bits = words[w] | window_bits(in, i, tile, word);
    out[word] = is_real ? bits & shared.real[word] : 0u;
  }
}

template <bool kCollapse>
__global__ void __launch_bounds__(kExactThreads)
    sample_exact_tiles_kernel(SampleInputs in, WritableGraph graph, TileGrid grid) {
  const TileBlock block = this_block(grid, kExactRows);
  if (graph.form[block.problem] != EdgeForm::kBits) return;
  const SampleProblem problem = in.problem(block.problem);
  const int64_t before = block.problem * in.num_clusters;
  const float* mu = static_cast<const float*>(in.mu) + before * in.num_queries;
  const float* z = static_cast<const float*>(in.z) + before * in.num_keys;
  auto& shared = *reinterpret_cast<ExactShared*>(shared_memory());
  const int y = static_cast<int>(threadIdx.x) / 16;
  const int x = static_cast<int>(threadIdx.x) % 16;
  for (int64_t tile = block.begin_tile; tile < block.end_tile; ++tile) {
    float sums[kPerThread][kPerThread];
#pragma unroll
    for (auto& row : sums) {
#pragma unroll
      for (float& sum : row) sum = in.delta;
    }
    for (int64_t k = 0; k < in.num_clusters; k += kExactDepth) {
      sync_threads();  // the last reads of what is overwritten now
      load_exact<kExactRows>(shared.mu, mu, block.first_row, in.num_queries, k, in.num_clusters);
      load_exact<kTileKeys>(shared.z, z, tile * kTileKeys, in.num_keys, k, in.num_clusters);
      sync_threads();
      multiply_exact(shared, y, x, sums);
    }
    const uint32_t real = real_keys(problem, in.num_keys, tile, warp_index());
    if (lane_index() == 0) shared.real[warp_index()] = real;
    draw_exact<kCollapse>(in, problem, block.first_row, tile, sums, shared);
    sync_threads();
    store_exact(in, graph, problem, block, tile, shared);
  }
}

// --- bf16

constexpr int kFastRows = 128;
constexpr int kFastThreads = 128;
constexpr int kFastKeys = 64;    // at a time: half a tile
constexpr int kFastDepth = 128;  // of k at a time, at most
constexpr int kRowTiles = 2;     // of 16 rows, a warp
constexpr int kKeyTiles = 8;     // of 8 keys

/// The rounded factors of one wave, and how they are cut in k.
struct RoundedFactors {
  const bf16* mu = nullptr;  // [W, N, Kp]
  const bf16* z = nullptr;   // [W, M, Kp]
  int padded = 0;            // Kp
  int depth = 0;             // of k at a time
  int chunks = 0;
};

// Of a row in shared memory. 16 bytes more than the deepest: reads by ldmatrix then meet all banks.
constexpr int kFastStride = kFastDepth + 8;
constexpr int kFastSharedBytes = (kFastRows + kFastKeys) * kFastStride * 2;

struct FastShared {
  bf16* mu;  // [128, kFastStride]
  bf16* z;   // [64, kFastStride]
};

__device__ FastShared fast_shared() {
  auto* mu = reinterpret_cast<bf16*>(shared_memory());
  return {mu, mu + kFastRows * kFastStride};
}

// Place in shared memory of key `key`: sixteen are permuted so that the products of a lane, columns
// 2 t and 2 t + 1 of two fragments, are keys 4 t..4 t + 3, the pairs of one Philox block.
__device__ int place_of_key(int key) {
  return key / 16 * 16 + key % 4 / 2 * 8 + key % 16 / 4 * 2 + key % 2;
}

// Rows first..first + kRows of `from`, row r to place(r). Every thread has one sixteenth of the
// deepest row's pieces, so that nothing is divided by a depth that the compiler does not know.
template <int kRows, class Place>
__device__ void load_rows(const RoundedFactors& factors, bf16* to, const bf16* from, int64_t first,
                          int64_t all_rows, int chunk, const Place& place) {
  constexpr int kPieces = kFastDepth / 8;
  constexpr int kRowStep = kFastThreads / kPieces;
  const int k = static_cast<int>(threadIdx.x) % kPieces * 8;
  if (k >= factors.depth) return;
  const int row = static_cast<int>(threadIdx.x) / kPieces;
  const int first_k = chunk * factors.depth + k;
  const int64_t left = first_k < factors.padded ? all_rows - first : 0;
  const int rows = left < kRows ? static_cast<int>(left) : kRows;
  const bf16* source = from + (first + row) * factors.padded + first_k;
#pragma unroll
  for (int r = 0; r < kRows; r += kRowStep) {
    copy_async_16(to + place(row + r) * kFastStride + k, source + int64_t{r} * factors.padded,
                  row + r < rows);
  }
}

using FastSums = float[kRowTiles][kKeyTiles][4];

// One step of sixteen in k. kStarts: at delta, which costs no register for each sum.
template <bool kStarts>
__device__ void multiply_step(const bf16* mu, const bf16* z, float delta, FastSums& sums) {
  uint32_t a[kRowTiles][4];
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) load_matrices(a[r], mu + r * 16 * kFastStride);
#pragma unroll
  for (int c = 0; c < kKeyTiles; c += 2) {
    uint32_t b[4];
    load_matrices(b, z + c * 8 * kFastStride);
    const uint32_t pair[2][2] = {{b[0], b[1]}, {b[2], b[3]}};
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        if constexpr (kStarts) {
          multiply_from(sums[r][c + n], delta, a[r], pair[n]);
        } else {
          multiply_add(sums[r][c + n], a[r], pair[n]);
        }
      }
    }
  }
}

__device__ void multiply_fast(const RoundedFactors& factors, const FastShared& shared, float delta,
                              int chunk, FastSums& sums) {
  const int lane = lane_index();
  const bf16* mu = shared.mu + (warp_index() * 32 + lane % 16) * kFastStride + lane / 16 * 8;
  const bf16* z = shared.z + (lane / 16 * 8 + lane % 8) * kFastStride + lane / 8 % 2 * 8;
  if (chunk == 0) {
    multiply_step<true>(mu, z, delta, sums);
  } else {
    multiply_step<false>(mu, z, delta, sums);
  }
#pragma unroll 1  // more at once would spill
  for (int k = 16; k < factors.depth; k += 16) multiply_step<false>(mu + k, z + k, delta, sums);
}

// Lane t = lane % 4 draws, of a row, bits of words 2 (t % 2) and + 1, and so does lane t ^ 2: each
// puts one of the two together.
__device__ int own_word() {
  const int t = lane_index() % 4;
  return t % 2 * 2 + t / 2;
}

// Adds half `half` of the tile to this lane's words of rows g and g + 8, g = lane / 4, of every row
// tile. Warp-wide.
template <bool kCollapse>
__device__ void draw_fast(const SampleInputs& in, const SampleProblem& problem, int64_t first_row,
                          int64_t first_key, int half, const FastSums& sums,
                          uint32_t (&bits)[kRowTiles][2]) {
  const int lane = lane_index();
  const bool is_second = lane % 4 / 2 == 1;
#pragma unroll
  for (int r = 0; r < 2 * kRowTiles; ++r) {
    const int64_t row = first_row + r * 8 + lane / 4;
    PhiloxCounter counter = in.counter(problem, static_cast<uint32_t>(row), Purpose::kEdgeTile);
    uint32_t drawn[2] = {0, 0};
#pragma unroll
    for (int block = 0; block < kKeyTiles / 2; ++block) {
      counter[0] = static_cast<uint32_t>(first_key / 4 + block * 4 + lane % 4);
      const PhiloxCounter words = philox4x32(counter, problem.key);
#pragma unroll
      for (int x = 0; x < 4; ++x) {
        const float p = sums[r / 2][2 * block + x / 2][r % 2 * 2 + x % 2];
        const uint32_t bit = 1u << (4 * block + x % 2);
        drawn[x / 2] |= is_kept<kCollapse>(p, words[static_cast<size_t>(x)]) ? bit : 0u;
      }
    }
    // Keys 4 t.. of sixteen lie in the first eight, or in the second.
    const uint32_t own = is_second ? drawn[1] << 2 : drawn[0];
    const uint32_t got = shuffle_xor(is_second ? drawn[0] << 2 : drawn[1], 2);
    bits[r / 2][r % 2] |= (own | got) << (16 * half);
  }
}

__device__ void store_fast(const SampleInputs& in, const WritableGraph& graph,
                           const SampleProblem& problem, const TileBlock& block, int64_t tile,
                           const uint32_t (&bits)[kRowTiles][2]) {
  const int word = own_word();
  uint32_t real = 0;
  for (int w = 0; w < 4; ++w) {
    const uint32_t keys = real_keys(problem, in.num_keys, tile, w);
    if (w == word) real = keys;
  }
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t i = block.first_row + warp_index() * 32 + r * 16 + half * 8 + lane_index() / 4;
      if (i >= in.num_queries) continue;
      const uint32_t drawn = bits[r][half] | window_bits(in, i, tile, word);
      graph.by_query[block.problem * graph.query_stride + i * graph.row_words + tile * 4 + word] =
          problem.is_real_query(i) ? drawn & real : 0u;
    }
  }
}

template <bool kCollapse>
__global__ void __launch_bounds__(kFastThreads, 3)
    sample_fast_tiles_kernel(SampleInputs in, WritableGraph graph, TileGrid grid,
                             RoundedFactors factors) {
  const TileBlock block = this_block(grid, kFastRows);
  if (graph.form[block.problem] != EdgeForm::kBits) return;
  const SampleProblem problem = in.problem(block.problem);
  const FastShared shared = fast_shared();
  const int64_t in_wave = block.problem - grid.first_problem;
  const bf16* mu = factors.mu + in_wave * in.num_queries * factors.padded;
  const bf16* z = factors.z + in_wave * in.num_keys * factors.padded;
  const auto load_mu = [&](int chunk) {
    load_rows<kFastRows>(factors, shared.mu, mu, block.first_row, in.num_queries, chunk,
                         [](int row) { return row; });
  };
  const auto load_z = [&](int64_t first_key, int chunk) {
    load_rows<kFastKeys>(factors, shared.z, z, first_key, in.num_keys, chunk, place_of_key);
    commit_copies();
  };
  load_mu(0);
  load_z(block.begin_tile * kTileKeys, 0);
  for (int64_t tile = block.begin_tile; tile < block.end_tile; ++tile) {
    uint32_t bits[kRowTiles][2] = {};
    for (int half = 0; half < 2; ++half) {
      FastSums sums;
      const int64_t first_key = tile * kTileKeys + half * kFastKeys;
      for (int chunk = 0; chunk < factors.chunks; ++chunk) {
        wait_for_copies<0>();
        sync_threads();
        multiply_fast(factors, shared, in.delta, chunk, sums);
        sync_threads();
        // What comes next, this half or another; queries stay where they fit whole.
        const bool is_last = chunk + 1 == factors.chunks;
        const int next = is_last ? 0 : chunk + 1;
        if (factors.chunks > 1) load_mu(next);
        load_z(is_last ? first_key + kFastKeys : first_key, next);
      }
      draw_fast<kCollapse>(in, problem, block.first_row + warp_index() * 32, first_key, half, sums,
                           bits);
    }
    store_fast(in, graph, problem, block, tile, bits);
  }
  wait_for_copies<0>();  // of keys that nobody reads: none may be on its way when the block ends
}

// to[p, row, :] = from[first + p, row, :] rounded, zeros from K on; two numbers a thread.
template <class T>
__global__ void round_factors_kernel(uint32_t* to, const T* from, const EdgeForm* form,
                                     int64_t rows, int64_t num_clusters, int64_t padded,
                                     int64_t count) {
  const int64_t e = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (e >= count) return;
  const int64_t pairs = padded / 2;
  const int64_t row = e / pairs;
  if (form[row / rows] != EdgeForm::kBits) return;
  const int64_t k = e % pairs * 2;
  const T* source = from + row * num_clusters + k;
  to[e] = pack_bf16(k < num_clusters ? to_float(source[0]) : 0.0f,
                    k + 1 < num_clusters ? to_float(source[1]) : 0.0f);
}

template <class T>
void round_factors(const SampleCall& call, const Wave& wave, View<bf16> to, const T* from,
                   int64_t rows) {
  const int64_t k = call.inputs.num_clusters;
  const int64_t padded = to.shape[2];
  const int64_t count = wave.count * rows * padded / 2;
  constexpr int kThreads = 256;
  launch(call.stream, {.grid = blocks_for(count, kThreads), .block = kThreads},
         round_factors_kernel<T>, reinterpret_cast<uint32_t*>(to.data),
         from + wave.first * rows * k, call.graph.form + wave.first, rows, k, padded, count);
}

// Of the wave's first problem: where they are, if they are stored as they are needed.
RoundedFactors rounded_factors(const SampleCall& call, const Wave& wave) {
  const SampleInputs& in = call.inputs;
  const SampleScratch& scratch = call.scratch;
  const auto offset = wave.first * in.num_clusters;
  RoundedFactors factors{.mu = static_cast<const bf16*>(in.mu) + offset * in.num_queries,
                         .z = static_cast<const bf16*>(in.z) + offset * in.num_keys,
                         .padded = static_cast<int>(in.num_clusters)};
  if (!scratch.z.empty()) {
    with_real_type(in.storage, [&](auto zero) {
      using T = decltype(zero);
      round_factors(call, wave, scratch.mu, static_cast<const T*>(in.mu), in.num_queries);
      round_factors(call, wave, scratch.z, static_cast<const T*>(in.z), in.num_keys);
    });
    factors.mu = scratch.mu.data;
    factors.z = scratch.z.data;
    factors.padded = static_cast<int>(scratch.z.shape[2]);
  }
  factors.depth = std::min(factors.padded, kFastDepth);
  factors.chunks = (factors.padded + factors.depth - 1) / factors.depth;
  return factors;
}

TileGrid tile_grid(const SampleCall& call, const Wave& wave, int64_t rows) {
  // Twenty rounds: of the last one, nearly empty, 5 % of the time can be lost.
  constexpr int64_t kEnoughBlocks = 8192;
  TileGrid grid{.first_problem = wave.first,
                .row_tiles = (call.inputs.num_queries + rows - 1) / rows,
                .key_tiles = call.graph.row_words / 4};
  const int64_t blocks = wave.count * grid.row_tiles;
  const int64_t wanted = std::clamp<int64_t>(kEnoughBlocks / blocks, 1, grid.key_tiles);
  grid.tiles_per_run = (grid.key_tiles + wanted - 1) / wanted;
  grid.runs = (grid.key_tiles + grid.tiles_per_run - 1) / grid.tiles_per_run;
  return grid;
}

dim3 num_blocks(const TileGrid& grid, const Wave& wave) {
  return blocks_for(wave.count * grid.row_tiles * grid.runs, 1);
}

void sample_exact(const SampleCall& call, const Wave& wave) {
  const TileGrid grid = tile_grid(call, wave, kExactRows);
  const auto kernel = call.inputs.law == MaskLaw::kBernoulli ? sample_exact_tiles_kernel<false>
                                                             : sample_exact_tiles_kernel<true>;
  launch(
      call.stream,
      {.grid = num_blocks(grid, wave), .block = kExactThreads, .shared_bytes = sizeof(ExactShared)},
      kernel, call.inputs, call.graph, grid);
}

void sample_fast(const SampleCall& call, const Wave& wave) {
  const RoundedFactors factors = rounded_factors(call, wave);
  const TileGrid grid = tile_grid(call, wave, kFastRows);
  const auto kernel = call.inputs.law == MaskLaw::kBernoulli ? sample_fast_tiles_kernel<false>
                                                             : sample_fast_tiles_kernel<true>;
  launch(call.stream,
         {.grid = num_blocks(grid, wave), .block = kFastThreads, .shared_bytes = kFastSharedBytes},
         kernel, call.inputs, call.graph, grid, factors);
}

}  // namespace

void sample_tiles(const SampleCall& call, const Wave& wave) {
  if (call.stream.precision() == Precision::kBf16 || call.inputs.storage == Precision::kBf16) {
    sample_fast(call, wave);
  } else {
    sample_exact(call, wave);
  }
}

}  // namespace stipple::kernels::cuda
