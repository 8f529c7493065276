// SPDX-License-Identifier: Apache-2.0
// The optimizer's arithmetic, bound by memory: one pass over the gradients for their norm, one over
// the parameters for the update.
//   squared_norm: a block of 256 threads per run of 4096 elements, then one block of 1024 over the
//   runs; prepare_update: one thread; adamw: a thread per 4 parameters.
// Few registers; shared memory: one double per warp.
#include "kernels/adamw.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/math/adamw.h"
#include "kernels/runs.h"

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

__global__ void prepare_update_kernel(UpdateScalars* scalars, int64_t* applied_steps,
                                      const double* squared_norm, const UpdateRates* rates,
                                      math::UpdateRule rule) {
  *scalars = math::update_scalars(*rates, rule, *squared_norm, *applied_steps);
  *applied_steps += scalars->is_applied;
}

struct Update {
  float *x, *m, *v;
  const float* grad;
  const UpdateScalars* scalars;
  float weight_decay;

  template <int kWidth>
  __device__ void run(int64_t i) const {
    const UpdateScalars s = *scalars;
    if (s.is_applied == 0) return;
    Pack<kWidth> px = load<kWidth>(x + i), pm = load<kWidth>(m + i), pv = load<kWidth>(v + i);
    const Pack<kWidth> pg = load<kWidth>(grad + i);
    for (int j = 0; j < kWidth; ++j) {
      math::adamw_update(s, weight_decay, pg.at[j], px.at[j], pm.at[j], pv.at[j]);
    }
    store(x + i, px);
    store(m + i, pm);
    store(v + i, pv);
  }
};

}  // namespace

void squared_norm(const Stream& stream, const SquaredNorm& args, View<double> partials) {
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

void prepare_update(const Stream& stream, const PrepareUpdate& args) {
  const math::UpdateRule rule{args.clip_norm, args.beta2, args.eps};
  launch(stream, {.grid = 1, .block = 1}, prepare_update_kernel, args.scalars.data,
         args.applied_steps.data, args.squared_norm.data, args.rates.data, rule);
}

void adamw(const Stream& stream, const AdamW& args) {
  const Update update{.x = args.x.data,
                      .m = args.m.data,
                      .v = args.v.data,
                      .grad = args.grad.data,
                      .scalars = args.scalars.data,
                      .weight_decay = args.weight_decay};
  for_each_element(stream, args.x.numel(),
                   are_aligned(args.x.data, args.m.data, args.v.data, args.grad.data), update);
}

}  // namespace stipple::kernels::cuda
