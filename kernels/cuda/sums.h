// SPDX-License-Identifier: Apache-2.0
// Sums in a fixed order: over lanes of a warp, over the threads of a block, over the rows of a
// matrix.
#pragma once

#include "core/bf16.h"
#include "kernels/cuda/device.cuh"
#include "kernels/runs.h"

namespace stipple::kernels::cuda {

/// The sum over `lanes` neighbouring lanes, a power of two that is the same in the whole warp;
/// every lane gets it.
template <class T>
__device__ inline T lanes_sum(T value, int lanes = kWarpSize) {
  for (int mask = lanes / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}

/// Sum over the lanes up to this one; warp-wide.
template <class T>
__device__ inline T running_sum(T x) {
  for (int step = 1; step < kWarpSize; step *= 2) {
    const T below = shuffle_up(x, step);
    if (lane_index() >= step) x += below;
  }
  return x;
}

/// The sum over a block of kThreads threads, which all call it and all get it. `shared` has a place
/// per warp and may be used again at once.
template <int kThreads, class T>
__device__ inline T block_sum(T value, T* shared) {
  constexpr int kWarps = kThreads / kWarpSize;
  const T sum = lanes_sum(value);
  if (lane_index() == 0) shared[warp_index()] = sum;
  sync_threads();
  const T of_warp = lane_index() < kWarps ? shared[lane_index()] : T{};
  sync_threads();
  return lanes_sum(of_warp);
}

/// sums[p, i, col] = (or +=, where it adds) the sum of rows [i * run, (i + 1) * run) of x[p]. Rows
/// stand `pitch` apart, at least cols. `sums` may be x itself with sums_pitch = run * x_pitch: each
/// run's sum then stands in its first row. In is a storage of real numbers.
template <class In, class Out>
struct ColumnSums {
  Out* sums;    // [P, runs, cols]
  const In* x;  // [P, rows, cols]
  int64_t rows, cols;
  int64_t x_pitch = cols, sums_pitch = cols;
  int64_t run;
  bool adds = false;
};

inline constexpr int kColumnSumWarps = 8;

// A block sums one run of rows in 32 columns, lane = column; warp w takes every 8th row from w.
template <class In, class Out>
__global__ void column_sums_kernel(ColumnSums<In, Out> args) {
  const int64_t tiles = num_runs(args.cols, kWarpSize);
  const int64_t tile = blockIdx.x % tiles;
  const int64_t runs = num_runs(args.rows, args.run);
  const int64_t part = blockIdx.x / tiles;
  const int64_t col = tile * kWarpSize + lane_index();
  const Range rows = nth_run(part % runs, args.rows, args.run);
  const In* x = args.x + part / runs * args.rows * args.x_pitch + col;
  double sum = 0.0;
  if (col < args.cols) {
#pragma unroll 4
    for (int64_t row = rows.begin + warp_index(); row < rows.end; row += kColumnSumWarps) {
      sum += static_cast<double>(to_float(x[row * args.x_pitch]));
    }
  }
  auto* shared = reinterpret_cast<double*>(shared_memory());
  shared[threadIdx.x] = sum;
  sync_threads();
  if (warp_index() != 0 || col >= args.cols) return;
  for (int warp = 1; warp < kColumnSumWarps; ++warp) {
    sum += shared[warp * kWarpSize + lane_index()];
  }
  Out* to = args.sums + part * args.sums_pitch + col;
  *to = static_cast<Out>(args.adds ? static_cast<double>(*to) + sum : sum);
}

template <class In, class Out>
void column_sums(const Stream& stream, int64_t problems, const ColumnSums<In, Out>& args) {
  constexpr int kThreads = kColumnSumWarps * kWarpSize;
  const int64_t tiles = num_runs(args.cols, kWarpSize);
  launch(stream,
         {.grid = blocks_for(problems * num_runs(args.rows, args.run) * tiles, 1),
          .block = kThreads,
          .shared_bytes = kThreads * sizeof(double)},
         column_sums_kernel<In, Out>, args);
}

/// Rows that a block adds where many partial sums meet: one block alone would wait for memory.
inline constexpr int64_t kPartialsRun = 64;

/// sums[col] += all rows of `partials` [rows, cols], which are lost.
inline void add_partial_sums(const Stream& stream, float* sums, float* partials, int64_t rows,
                             int64_t cols) {
  ColumnSums<float, float> last{
      .sums = sums, .x = partials, .rows = rows, .cols = cols, .run = rows, .adds = true};
  if (rows > kPartialsRun) {
    last.rows = last.run = num_runs(rows, kPartialsRun);
    last.x_pitch = kPartialsRun * cols;
    column_sums<float, float>(stream, 1,
                              {.sums = partials,
                               .x = partials,
                               .rows = rows,
                               .cols = cols,
                               .sums_pitch = last.x_pitch,
                               .run = kPartialsRun});
  }
  column_sums(stream, 1, last);
}

}  // namespace stipple::kernels::cuda
