// SPDX-License-Identifier: Apache-2.0
// Sums in a fixed order: over the threads of a block, over the rows of a matrix.
#pragma once

#include "core/bf16.h"
#include "kernels/cuda/device.cuh"
#include "kernels/runs.h"

namespace stipple::kernels::cuda {

/// Sum of every thread's value, to every thread of the block. All threads call it; `shared` has
/// room for one T a warp.
template <class T>
__device__ T block_sum(T value, T* shared) {
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  sync_threads();  // an earlier call's values may still be read
  if (lane_index() == 0) shared[warp_index()] = value;
  sync_threads();
  T sum = 0;
  const int warps = static_cast<int>(blockDim.x) / kWarpSize;
  for (int warp = 0; warp < warps; ++warp) sum += shared[warp];
  return sum;
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
