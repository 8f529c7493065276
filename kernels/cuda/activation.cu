// SPDX-License-Identifier: Apache-2.0
// Elementwise operations, bound by memory.
//   activation, add and their backward: a thread per 4 elements.
//   mask_rows: a warp per row; rows of real tokens are not touched.
#include "kernels/activation.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/math/activation.h"

namespace stipple::kernels::cuda {
namespace {

template <float (*f)(float)>
struct Map {
  float* y;
  const float* x;

  template <int kWidth>
  __device__ void run(int64_t i) const {
    Pack<kWidth> values = load<kWidth>(x + i);
    for (float& value : values.at) value = f(value);
    store(y + i, values);
  }
};

template <float (*derivative)(float)>
struct MapGradient {
  float* dx;
  const float *dy, *saved;

  template <int kWidth>
  __device__ void run(int64_t i) const {
    Pack<kWidth> d = load<kWidth>(dy + i);
    const Pack<kWidth> s = load<kWidth>(saved + i);
    for (int j = 0; j < kWidth; ++j) d.at[j] *= derivative(s.at[j]);
    store(dx + i, d);
  }
};

struct Sum {
  float* y;
  const float *a, *b;

  template <int kWidth>
  __device__ void run(int64_t i) const {
    Pack<kWidth> sum = load<kWidth>(a + i);
    const Pack<kWidth> other = load<kWidth>(b + i);
    for (int j = 0; j < kWidth; ++j) sum.at[j] += other.at[j];
    store(y + i, sum);
  }
};

__global__ void mask_rows_kernel(float* x, const uint8_t* mask, int64_t rows, int64_t channels) {
  constexpr int kRows = kBlockThreads / kWarpSize;
  const int64_t row = int64_t{blockIdx.x} * kRows + warp_index();
  if (row >= rows || mask[row] != 0) return;
  for (int64_t c = lane_index(); c < channels; c += kWarpSize) x[row * channels + c] = 0.0f;
}

template <float (*f)(float)>
void map(const Stream& stream, const Activation& args) {
  for_each_element(stream, args.x.numel(), are_aligned(args.y.data, args.x.data),
                   Map<f>{args.y.data, args.x.data});
}

template <float (*derivative)(float)>
void map_gradient(const Stream& stream, const ActivationBackward& args) {
  for_each_element(stream, args.dx.numel(),
                   are_aligned(args.dx.data, args.dy.data, args.saved.data),
                   MapGradient<derivative>{args.dx.data, args.dy.data, args.saved.data});
}

}  // namespace

void activation(const Stream& stream, const Activation& args) {
  switch (args.kind) {
    case ActivationKind::kGelu:
      return map<math::gelu>(stream, args);
    case ActivationKind::kRelu:
      return map<math::relu>(stream, args);
    case ActivationKind::kSigmoid:
      return map<math::sigmoid>(stream, args);
    case ActivationKind::kTanh:
      return map<math::hyperbolic_tangent>(stream, args);
  }
}

void activation_backward(const Stream& stream, const ActivationBackward& args) {
  switch (args.kind) {
    case ActivationKind::kGelu:
      return map_gradient<math::gelu_derivative>(stream, args);
    case ActivationKind::kRelu:
      return map_gradient<math::relu_derivative_from_output>(stream, args);
    case ActivationKind::kSigmoid:
      return map_gradient<math::sigmoid_derivative_from_output>(stream, args);
    case ActivationKind::kTanh:
      return map_gradient<math::hyperbolic_tangent_derivative_from_output>(stream, args);
  }
}

void add(const Stream& stream, const Add& args) {
  for_each_element(stream, args.y.numel(), are_aligned(args.y.data, args.a.data, args.b.data),
                   Sum{args.y.data, args.a.data, args.b.data});
}

void mask_rows(const Stream& stream, const MaskRows& args) {
  const int64_t rows = args.mask.numel();
  launch(stream, {.grid = blocks_for(rows, kBlockThreads / kWarpSize), .block = kBlockThreads},
         mask_rows_kernel, args.x.data, args.mask.data, rows, args.x.shape[2]);
}

}  // namespace stipple::kernels::cuda
