// SPDX-License-Identifier: Apache-2.0
// LAMB, bound by memory: moments and partial norms by a block of 256 threads per run of 4096
// elements, the ratio by a block per tensor, their summary by one thread, parameters by a block per
// run. Few registers; shared memory: one double per warp.
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/sums.h"
#include "kernels/lamb.h"
#include "kernels/math/lamb.h"
#include "kernels/runs.h"

namespace stipple::kernels::cuda {
namespace {

struct LambSquares {
  double x, u;
};

struct LambArrays {
  float *x, *m, *v;
  const float* grad;
  const UpdateScalars* scalars;
  const LambTensor* tensors;
  const LambRun* runs;
  float* ratios;
};

__global__ void lamb_moments_kernel(LambSquares* squares, LambArrays args) {
  const UpdateScalars s = *args.scalars;
  if (s.is_applied == 0) return;
  const LambRun run = args.runs[blockIdx.x];
  const float decay = args.tensors[run.tensor].weight_decay;
  double x_squares = 0, u_squares = 0;
  for (int64_t i = run.begin + threadIdx.x; i < run.end; i += kBlockThreads) {
    const float x = args.x[i];
    float m = args.m[i], v = args.v[i];
    math::lamb_moments(s, args.grad[i], m, v);
    args.m[i] = m;
    args.v[i] = v;
    const double u = static_cast<double>(math::lamb_direction(s, decay, x, m, v));
    x_squares += static_cast<double>(x) * static_cast<double>(x);
    u_squares += u * u;
  }
  auto* shared = reinterpret_cast<double*>(shared_memory());
  x_squares = block_sum<kBlockThreads>(x_squares, shared);
  u_squares = block_sum<kBlockThreads>(u_squares, shared);
  if (threadIdx.x == 0) squares[blockIdx.x] = {x_squares, u_squares};
}

__global__ void lamb_ratio_kernel(const LambSquares* squares, LambArrays args) {
  if (args.scalars->is_applied == 0) return;
  const LambTensor tensor = args.tensors[blockIdx.x];
  const LambSquares* of_tensor = squares + tensor.first_run;
  double x_squares = 0, u_squares = 0;
  for (int64_t i = threadIdx.x; i < tensor.num_runs; i += kBlockThreads) {
    x_squares += of_tensor[i].x;
    u_squares += of_tensor[i].u;
  }
  auto* shared = reinterpret_cast<double*>(shared_memory());
  x_squares = block_sum<kBlockThreads>(x_squares, shared);
  u_squares = block_sum<kBlockThreads>(u_squares, shared);
  if (threadIdx.x == 0) args.ratios[blockIdx.x] = math::trust_ratio(tensor, x_squares, u_squares);
}

__global__ void lamb_summary_kernel(TrustRatios* summary, LambArrays args, int64_t tensors) {
  if (args.scalars->is_applied == 0) return;
  *summary = math::summary_of(args.tensors, args.ratios, tensors);
}

__global__ void lamb_parameters_kernel(LambArrays args) {
  const UpdateScalars s = *args.scalars;
  if (s.is_applied == 0) return;
  const LambRun run = args.runs[blockIdx.x];
  const LambTensor tensor = args.tensors[run.tensor];
  const float rate = s.learning_rate * tensor.rate_factor * args.ratios[run.tensor];
  for (int64_t i = run.begin + threadIdx.x; i < run.end; i += kBlockThreads) {
    const float u = math::lamb_direction(s, tensor.weight_decay, args.x[i], args.m[i], args.v[i]);
    args.x[i] -= rate * u;
  }
}

}  // namespace

void lamb(const Stream& stream, const Lamb& args) {
  const Arena::Scope scope(*args.scratch);
  const View<LambSquares> squares = args.scratch->alloc<LambSquares>({args.runs.numel()});
  if (args.runs.numel() == 0) return;
  const LambArrays arrays{.x = args.x.data,
                          .m = args.m.data,
                          .v = args.v.data,
                          .grad = args.grad.data,
                          .scalars = args.scalars.data,
                          .tensors = args.tensors.data,
                          .runs = args.runs.data,
                          .ratios = args.ratios.data};
  LaunchShape shape{.grid = dim3(static_cast<unsigned>(args.runs.numel())),
                    .block = kBlockThreads,
                    .shared_bytes = kBlockThreads / kWarpSize * sizeof(double)};
  launch(stream, shape, lamb_moments_kernel, squares.data, arrays);
  shape.grid = dim3(static_cast<unsigned>(args.tensors.numel()));
  launch(stream, shape, lamb_ratio_kernel, squares.data, arrays);
  launch(stream, {.grid = 1, .block = 1}, lamb_summary_kernel, args.summary.data, arrays,
         args.tensors.numel());
  launch(stream, {.grid = dim3(static_cast<unsigned>(args.runs.numel())), .block = kBlockThreads},
         lamb_parameters_kernel, arrays);
}

}  // namespace stipple::kernels::cuda
