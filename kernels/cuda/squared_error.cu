// SPDX-License-Identifier: Apache-2.0
// Squared errors of a number per example: one block of 256 threads, each takes every 256th row.
// Shared memory: a number per warp.
#include <cmath>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/sums.h"
#include "kernels/squared_error.h"

namespace stipple::kernels::cuda {
namespace {

struct Errors {
  float* dy;  // null: not wanted
  double* loss_sum;
  int64_t* count;
  const float *y, *target, *scale;
  int64_t rows;
};

__global__ void __launch_bounds__(kBlockThreads) squared_error_kernel(Errors f) {
  const float scale = *f.scale;
  double loss = 0;
  int64_t count = 0;
  for (int64_t r = threadIdx.x; r < f.rows; r += kBlockThreads) {
    const bool is_counted = !std::isnan(f.target[r]);
    const float error = is_counted ? f.y[r] - f.target[r] : 0.0f;
    loss += static_cast<double>(error) * static_cast<double>(error);
    count += is_counted ? 1 : 0;
    if (f.dy != nullptr) f.dy[r] = 2.0f * error * scale;
  }
  loss = block_sum<kBlockThreads>(loss, reinterpret_cast<double*>(shared_memory()));
  count = block_sum<kBlockThreads>(count, reinterpret_cast<int64_t*>(shared_memory()));
  if (threadIdx.x != 0) return;
  *f.loss_sum += loss;
  *f.count += count;
}

}  // namespace

void squared_error(const Stream& stream, const SquaredError& args) {
  launch(stream,
         {.grid = 1,
          .block = kBlockThreads,
          .shared_bytes = kBlockThreads / kWarpSize * sizeof(double)},
         squared_error_kernel,
         Errors{.dy = args.dy.data,
                .loss_sum = args.loss_sum.data,
                .count = args.count.data,
                .y = args.y.data,
                .target = args.target.data,
                .scale = args.scale.data,
                .rows = args.y.numel()});
}

}  // namespace stipple::kernels::cuda
