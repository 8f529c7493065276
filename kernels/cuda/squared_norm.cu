// SPDX-License-Identifier: Apache-2.0
// The squared norm, bound by memory: a block of 256 threads per run of 4096 elements, then one block
// of 1024 over the runs. Few registers; shared memory: one double per warp.
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/sums.h"
#include "kernels/runs.h"
#include "kernels/squared_norm.h"

namespace stipple::kernels::cuda {
namespace {

constexpr int kSumThreads = 1024;

template <int kWidth>
__device__ double squares(const float* x) {
  const Pack<kWidth> values = load<kWidth>(x);
  double sum = 0;
  for (float value : values.at) sum += static_cast<double>(value) * static_cast<double>(value);
  return sum;
}

template <int kWidth>
__global__ void sum_squares_kernel(double* partials, const float* x, int64_t count) {
  const int64_t begin = int64_t{blockIdx.x} * kNormRun;
  const int64_t end = std::min(count, begin + kNormRun);
  double sum = 0;
  int64_t i = begin + int64_t{threadIdx.x} * kWidth;
#pragma unroll 4
  for (; i + kWidth <= end; i += kBlockThreads * kWidth) sum += squares<kWidth>(x + i);
  for (; i < end; ++i) sum += squares<1>(x + i);
  sum = block_sum<kBlockThreads>(sum, reinterpret_cast<double*>(shared_memory()));
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kSumThreads)
    add_up_kernel(double* result, const double* partials, int64_t count) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kSumThreads) sum += partials[i];
  sum = block_sum<kSumThreads>(sum, reinterpret_cast<double*>(shared_memory()));
  if (threadIdx.x == 0) *result = sum;
}

}  // namespace

void squared_norm(const Stream& stream, const SquaredNorm& args) {
  const Arena::Scope scope(*args.scratch);
  const View<double> partials = args.scratch->alloc<double>({num_runs(args.x.numel(), kNormRun)});
  const LaunchShape runs{.grid = dim3(static_cast<unsigned>(partials.numel())),
                         .block = kBlockThreads,
                         .shared_bytes = kBlockThreads / kWarpSize * sizeof(double)};
  void (*kernel)(double*, const float*, int64_t) =
      are_aligned(args.x.data) ? sum_squares_kernel<kPackWidth> : sum_squares_kernel<1>;
  launch(stream, runs, kernel, partials.data, args.x.data, args.x.numel());
  launch(
      stream,
      {.grid = 1, .block = kSumThreads, .shared_bytes = kSumThreads / kWarpSize * sizeof(double)},
      add_up_kernel, args.sum.data, partials.data, partials.numel());
}

}  // namespace stipple::kernels::cuda
