// SPDX-License-Identifier: Apache-2.0
// alpha-entmax of rows of any length. Forward: a warp reads a row once, 32 scores at a time, into a
// list of those that may have a weight, solves it, and writes the weights in a second pass. Backward:
// a warp sums over a row, then writes it. Fixed orders, no atomics.
#include <algorithm>

#include "kernels/cuda/entmax/gradient.cuh"
#include "kernels/cuda/entmax/solve.cuh"
#include "kernels/entmax.h"

namespace stipple::kernels::cuda {
namespace {

constexpr int kEntmaxWarps = 4;  // of a block

LaunchShape entmax_workers(int64_t count) {
  return {.grid = blocks_for(count, kEntmaxWarps), .block = kEntmaxWarps * kWarpSize};
}

/// The number of this warp in the grid.
__device__ int64_t entmax_worker() { return int64_t{blockIdx.x} * kEntmaxWarps + warp_index(); }

struct EntmaxRows {
  int64_t rows, length;
  const float* z;
  const float* alpha;
  int64_t alpha_stride;  ///< 0: one for all
  float *p, *tau;
  int32_t* size;
  uint32_t* columns;
  int64_t room;
  EntmaxLists lists;
};

__device__ void write_weights(const EntmaxRows& a, int64_t row, const EntmaxMap& map,
                              const EntmaxRoot& root, bool is_bad) {
  const float bad = kInfinity - kInfinity;
  for (int64_t j = lane_index(); j < a.length; j += kWarpSize) {
    const float u = (map.alpha - 1.0f) * a.z[row * a.length + j] - root.highest - root.tau;
    const float p = u > 0.0f ? map.mass(u) / root.mass : 0.0f;
    a.p[row * a.length + j] = is_bad ? bad : p;
  }
}

__device__ void write_support(const EntmaxList& list, uint32_t* columns, int64_t room) {
  if (list.count > room) return;
  for (int e = lane_index(); e < list.count; e += kWarpSize) columns[e] = list.key[e];
}

__global__ void __launch_bounds__(kEntmaxWarps* kWarpSize) entmax_kernel(EntmaxRows a) {
  const int64_t worker = entmax_worker();
  if (worker >= a.lists.workers) return;
  for (int64_t row = worker; row < a.rows; row += a.lists.workers) {
    sync_warp();  // all lanes have left the list of the row before
    const EntmaxMap map(a.alpha[row * a.alpha_stride]);
    EntmaxScan scan{.list = a.lists.of(worker)};
    for (int64_t first = 0; first < a.length; first += kWarpSize) {
      const int64_t j = first + lane_index();
      const float x = j < a.length ? (map.alpha - 1.0f) * a.z[row * a.length + j] : -kInfinity;
      scan.add(x, static_cast<uint32_t>(j));
    }
    if (scan.is_bad) scan.list.count = 0;
    const EntmaxRoot root = solve(scan.list, map, scan.highest);
    if (a.p != nullptr) write_weights(a, row, map, root, scan.is_bad);
    if (a.size != nullptr) write_support(scan.list, a.columns + row * a.room, a.room);
    if (lane_index() != 0) continue;
    a.tau[row] = scan.is_bad ? kInfinity - kInfinity : root.tau + root.highest;
    if (a.size != nullptr) a.size[row] = scan.list.count;
  }
}

__global__ void __launch_bounds__(kEntmaxWarps* kWarpSize)
    entmax_backward_kernel(EntmaxBackward args, int64_t rows, int64_t length,
                           int64_t alpha_stride) {
  const int64_t row = entmax_worker();
  if (row >= rows) return;
  const EntmaxMap map(args.alpha.data[row * alpha_stride]);
  const float* p = args.p.data + row * length;
  const float* dp = args.dp.data + row * length;
  const bool wants_alpha = args.dalpha.data != nullptr;
  AlphaGradient of_alpha;
  float slopes = 0.0f, mean = 0.0f;
  for (int64_t j = lane_index(); j < length; j += kWarpSize) {
    const float u = map.slope(p[j]);
    slopes += u;
    mean += u * dp[j];
    if (wants_alpha) of_alpha.add(p[j], u, dp[j]);
  }
  slopes = lanes_sum(slopes);
  mean = lanes_sum(mean);
  const float delta = slopes > 0.0f ? mean / slopes : slopes + mean;  // a NaN stays one
  for (int64_t j = lane_index(); j < length; j += kWarpSize)
    args.dz.data[row * length + j] = map.slope(p[j]) * (dp[j] - delta);
  if (!wants_alpha) return;
  const float dalpha = of_alpha.total(map.alpha);
  if (lane_index() == 0) args.dalpha.data[row] = dalpha;
}

int64_t alpha_stride(View<const float> alpha, int64_t rows) {
  return alpha.shape[0] == rows && rows > 1 ? 1 : 0;
}

}  // namespace

void entmax(const Stream& stream, const Entmax& args) {
  const Arena::Scope scope(*args.scratch);
  EntmaxRows a{};
  a.rows = args.z.shape[0];
  a.length = args.z.shape[1];
  a.z = args.z.data;
  a.alpha = args.alpha.data;
  a.alpha_stride = alpha_stride(args.alpha, a.rows);
  a.p = args.p.data;
  a.tau = args.tau.data;
  if (!args.support.empty()) {
    a.size = args.support.size.data;
    a.columns = args.support.columns.data;
    a.room = args.support.columns.shape[1];
  }
  a.lists = alloc_entmax_lists(*args.scratch, a.rows, a.length);
  launch(stream, entmax_workers(a.lists.workers), entmax_kernel, a);
}

void entmax_backward(const Stream& stream, const EntmaxBackward& args) {
  const int64_t rows = args.p.shape[0];
  launch(stream, entmax_workers(rows), entmax_backward_kernel, args, rows, args.p.shape[1],
         alpha_stride(args.alpha, rows));
}

}  // namespace stipple::kernels::cuda
