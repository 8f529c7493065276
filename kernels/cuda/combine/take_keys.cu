// SPDX-License-Identifier: Apache-2.0
// Keys of regions that are those of the tokens which ask. Backward: a thread owns a channel of a
// problem and adds the regions' gradients in their order, so that it needs no atomics.
#include "kernels/combine.h"
#include "kernels/cuda/elements.cuh"

namespace stipple::kernels::cuda {
namespace {

/// Regions and tokens of all problems, as kernels take them.
struct Taken {
  const int32_t* from;           // [B, H, R, D]
  const int32_t* region_tokens;  // [B, R]
  int64_t problems, heads, regions, tokens, dim;

  __device__ bool exists(int64_t problem, int64_t r) const {
    return region_tokens[problem / heads * regions + r] > 0;
  }
};

template <class T>
__global__ void __launch_bounds__(kBlockThreads) take_kernel(Taken t, T* key, const T* token_key) {
  const int64_t e = int64_t{blockIdx.x} * kBlockThreads + threadIdx.x;
  if (e >= t.problems * t.regions * t.dim) return;
  const int64_t problem = e / (t.regions * t.dim), r = e / t.dim % t.regions, x = e % t.dim;
  const int64_t row = problem * t.tokens + (t.exists(problem, r) ? t.from[e] : 0);
  key[e] = t.exists(problem, r) ? token_key[row * t.dim + x] : from_float<T>(0.0f);
}

template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    take_backward_kernel(Taken t, T* dtoken_key, const T* dkey) {
  const int64_t channel = int64_t{blockIdx.x} * kBlockThreads + threadIdx.x;
  if (channel >= t.problems * t.dim) return;
  const int64_t problem = channel / t.dim, x = channel % t.dim;
  for (int64_t r = 0; r < t.regions; ++r) {
    if (!t.exists(problem, r)) continue;
    const int64_t e = (problem * t.regions + r) * t.dim + x;
    T& to = dtoken_key[(problem * t.tokens + t.from[e]) * t.dim + x];
    to = from_float<T>(to_float(to) + to_float(dkey[e]));
  }
}

template <class Args>
Taken taken(const Args& a, const Shape& regions, int64_t tokens) {
  return {.from = a.from.data,
          .region_tokens = a.region_tokens.data,
          .problems = regions[0] * regions[1],
          .heads = regions[1],
          .regions = regions[2],
          .tokens = tokens,
          .dim = regions[3]};
}

}  // namespace

void take_keys(const Stream& stream, const TakeKeys& a) {
  const Taken t = taken(a, a.key.shape, a.token_key.shape[2]);
  with_real_type(a.key.precision, [&](auto zero) {
    using T = decltype(zero);
    launch(
        stream,
        {.grid = blocks_for(t.problems * t.regions * t.dim, kBlockThreads), .block = kBlockThreads},
        take_kernel<T>, t, a.key.as<T>().data, a.token_key.as<T>().data);
  });
}

void take_keys_backward(const Stream& stream, const TakeKeysBackward& a) {
  const Taken t = taken(a, a.dkey.shape, a.dtoken_key.shape[2]);
  with_real_type(a.dkey.precision, [&](auto zero) {
    using T = decltype(zero);
    launch(stream, {.grid = blocks_for(t.problems * t.dim, kBlockThreads), .block = kBlockThreads},
           take_backward_kernel<T>, t, a.dtoken_key.as<T>().data, a.dkey.as<T>().data);
  });
}

}  // namespace stipple::kernels::cuda
