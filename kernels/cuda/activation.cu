// SPDX-License-Identifier: Apache-2.0
// Elementwise operations, bound by memory.
//   activation, add and their backward: a thread per 16 bytes of each array, half of them for bf16
//   beside fp32.
//   mask_rows: a warp per row; rows of real tokens are not touched.
#include "kernels/activation.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/math/activation.h"

namespace stipple::kernels::cuda {
namespace {

template <class Formula, class T>
struct Map {
  T* y;
  const T* x;

  template <int kWidth>
  __device__ void run(int64_t i) const {
    Pack<kWidth> values = load<kWidth>(x + i);
    for (float& value : values.at) value = Formula::value(value);
    store(y + i, values);
  }
};

/// T and Dy are storages.
template <class Formula, class T, class Dy>
struct MapGradient {
  T* dx;
  const Dy* dy;
  const T* saved;

  template <int kWidth>
  __device__ void run(int64_t i) const {
    Pack<kWidth> d = load<kWidth>(dy + i);
    const Pack<kWidth> s = load<kWidth>(saved + i);
    for (int j = 0; j < kWidth; ++j) d.at[j] *= Formula::derivative(s.at[j]);
    store(dx + i, d);
  }
};

template <class T, class B>
struct Sum {
  T* y;
  const T* a;
  const B* b;

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

}  // namespace

void activation(const Stream& stream, const Activation& args) {
  with_real_type(args.y.precision, [&](auto zero) {
    using T = decltype(zero);
    math::with_activation(args.kind, [&](auto formula) {
      const Map<decltype(formula), T> map{args.y.as<T>().data, args.x.as<T>().data};
      for_each_element<kPackWidthOf<T>>(stream, args.x.numel(), are_aligned(map.y, map.x), map);
    });
  });
}

void activation_backward(const Stream& stream, const ActivationBackward& args) {
  with_real_types(args.dx.precision, args.dy.precision, [&](auto zero, auto dy) {
    using T = decltype(zero);
    using Dy = decltype(dy);
    math::with_activation(args.kind, [&](auto formula) {
      const MapGradient<decltype(formula), T, Dy> map{args.dx.as<T>().data, args.dy.as<Dy>().data,
                                                      args.saved.as<T>().data};
      for_each_element<kPackWidthOf<T, Dy>>(stream, args.dx.numel(),
                                            are_aligned(map.dx, map.dy, map.saved), map);
    });
  });
}

void add(const Stream& stream, const Add& args) {
  with_real_types(args.y.precision, args.b.precision, [&](auto zero, auto b) {
    using T = decltype(zero);
    using B = decltype(b);
    const Sum<T, B> sum{args.y.as<T>().data, args.a.as<T>().data, args.b.as<B>().data};
    for_each_element<kPackWidthOf<T, B>>(stream, args.y.numel(), are_aligned(sum.y, sum.a, sum.b),
                                         sum);
  });
}

void mask_rows(const Stream& stream, const MaskRows& args) {
  const int64_t rows = args.mask.numel();
  launch(stream, {.grid = blocks_for(rows, kBlockThreads / kWarpSize), .block = kBlockThreads},
         mask_rows_kernel, args.x.data, args.mask.data, rows, args.x.shape[2]);
}

}  // namespace stipple::kernels::cuda
