// SPDX-License-Identifier: Apache-2.0
// Features of tokens: a thread an output. Neighbours of a hidden layer read the same channel and
// neighbouring weights. No shared memory. Compiled without fused multiply-adds: the CPU's bits.
#include "kernels/cuda/device.cuh"
#include "kernels/hidden_unit.h"
#include "kernels/token_features.h"

namespace stipple::kernels::cuda {
namespace {

constexpr int kFeatureThreads = 256;

template <class T>
struct HiddenLayer {
  float* y;
  const T* x;
  const float* weight;
  const float* bias;
  int64_t outputs, heads, n, d, f;
};

template <class T>
__global__ void __launch_bounds__(kFeatureThreads) hidden_tokens_kernel(HiddenLayer<T> in) {
  const int64_t at = thread_of_grid();
  if (at >= in.outputs) return;
  const int64_t row = at / in.f, e = at % in.f, h = row / in.n % in.heads;
  const float* weight = in.weight + h * in.d * in.f + e;
  float sum = 0.0f;
  for (int64_t k = 0; k < in.d; ++k) sum += to_float(in.x[row * in.d + k]) * weight[k * in.f];
  in.y[at] = hidden_unit(sum + in.bias[h * in.f + e]);
}

template <class T>
struct JoinedRows {
  float* y;
  const T* first;
  const T* second;
  int64_t outputs, a, b;
};

template <class T>
__global__ void __launch_bounds__(kFeatureThreads) join_tokens_kernel(JoinedRows<T> in) {
  const int64_t at = thread_of_grid();
  if (at >= in.outputs) return;
  const int64_t row = at / (in.a + in.b), c = at % (in.a + in.b);
  in.y[at] = to_float(c < in.a ? in.first[row * in.a + c] : in.second[row * in.b + c - in.a]);
}

}  // namespace

void hidden_tokens(const Stream& stream, const HiddenTokens& args) {
  const Shape& shape = args.x.shape;
  const int64_t outputs = args.y.numel();
  if (outputs == 0) return;
  with_real_type(args.x.precision, [&](auto zero) {
    using T = decltype(zero);
    launch(stream, {.grid = blocks_for(outputs, kFeatureThreads), .block = kFeatureThreads},
           hidden_tokens_kernel<T>,
           HiddenLayer<T>{.y = args.y.data,
                          .x = args.x.as<T>().data,
                          .weight = args.weight.data,
                          .bias = args.bias.data,
                          .outputs = outputs,
                          .heads = shape[1],
                          .n = shape[2],
                          .d = shape[3],
                          .f = args.y.shape[3]});
  });
}

void join_tokens(const Stream& stream, const JoinTokens& args) {
  const int64_t outputs = args.y.numel();
  if (outputs == 0) return;
  with_real_type(args.first.precision, [&](auto zero) {
    using T = decltype(zero);
    launch(stream, {.grid = blocks_for(outputs, kFeatureThreads), .block = kFeatureThreads},
           join_tokens_kernel<T>,
           JoinedRows<T>{.y = args.y.data,
                         .first = args.first.as<T>().data,
                         .second = args.second.as<T>().data,
                         .outputs = outputs,
                         .a = args.first.shape[3],
                         .b = args.second.shape[3]});
  });
}

}  // namespace stipple::kernels::cuda
