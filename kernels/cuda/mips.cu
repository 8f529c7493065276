// SPDX-License-Identifier: Apache-2.0
// One coordinate more: a block a head of a sequence, a thread a token, whose length is computed twice.
// The largest length is that of a comparison of bits: squares are not negative. Compiled without fused
// multiply-adds: the CPU's bits.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/masks.cuh"
#include "kernels/math/mips.h"
#include "kernels/mips.h"

namespace stipple::kernels::cuda {
namespace {

constexpr int kMipsThreads = 128;

template <class T>
struct MipsInputs {
  float* y;
  const T* x;
  const uint8_t* mask;
  int64_t heads, n, d;
  bool are_keys;
};

/// Of all threads of the block.
__device__ float block_largest(float own, float* of_warps) {
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
    const float other = shuffle_xor(own, mask);
    own = other > own ? other : own;
  }
  if (lane_index() == 0) of_warps[warp_index()] = own;
  sync_threads();
  for (int warp = 0; warp < kMipsThreads / kWarpSize; ++warp)
    own = of_warps[warp] > own ? of_warps[warp] : own;
  return own;
}

template <class T>
__global__ void __launch_bounds__(kMipsThreads) mips_tokens_kernel(MipsInputs<T> in) {
  const int64_t p = blockIdx.x;
  const uint8_t* mask = in.mask == nullptr ? nullptr : in.mask + p / in.heads * in.n;
  const T* x = in.x + p * in.n * in.d;
  float largest = 0.0f;
  for (int64_t i = threadIdx.x; in.are_keys && i < in.n; i += kMipsThreads) {
    if (!is_real(mask, i)) continue;
    const float own = math::squared_length(x + i * in.d, in.d);
    largest = own > largest ? own : largest;
  }
  largest = block_largest(largest, reinterpret_cast<float*>(shared_memory()));
  for (int64_t i = threadIdx.x; i < in.n; i += kMipsThreads) {
    float* y = in.y + (p * in.n + i) * (in.d + 1);
    for (int64_t c = 0; c < in.d; ++c) y[c] = to_float(x[i * in.d + c]);
    y[in.d] = in.are_keys ? math::mips_coordinate(largest, math::squared_length(x + i * in.d, in.d))
                          : 0.0f;
  }
}

}  // namespace

void mips_tokens(const Stream& stream, const MipsTokens& args) {
  const Shape& shape = args.x.shape;
  if (args.y.numel() == 0) return;
  with_real_type(args.x.precision, [&](auto zero) {
    using T = decltype(zero);
    launch(stream,
           {.grid = blocks_for(shape[0] * shape[1], 1),
            .block = kMipsThreads,
            .shared_bytes = kMipsThreads / kWarpSize * sizeof(float)},
           mips_tokens_kernel<T>,
           MipsInputs<T>{.y = args.y.data,
                         .x = args.x.as<T>().data,
                         .mask = args.mask.data,
                         .heads = shape[1],
                         .n = shape[2],
                         .d = shape[3],
                         .are_keys = args.are_keys});
  });
}

}  // namespace stipple::kernels::cuda
