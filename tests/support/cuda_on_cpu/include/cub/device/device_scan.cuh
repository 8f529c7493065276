// SPDX-License-Identifier: Apache-2.0
// Running sums of an array, with CUB's names.
#pragma once

#include "cuda_on_cpu/cub.h"

namespace cub {

struct DeviceScan {
  /// `in` may be `out`.
  template <class T>
  static cudaError_t ExclusiveSum(void* storage, size_t& bytes, const T* in, T* out, int count,
                                  cudaStream_t stream = nullptr) {
    constexpr size_t kTile = 1024, kStateBytes = 8;
    const size_t tiles = (static_cast<size_t>(count) + kTile - 1) / kTile;
    const size_t needed = cuda_on_cpu::aligned_bytes((tiles + 32) * kStateBytes) + 255;
    return cuda_on_cpu::run_with_storage(storage, bytes, needed, stream, [=] {
      T sum{};
      for (int i = 0; i < count; ++i) {
        const T own = in[i];
        out[i] = sum;
        sum = sum + own;
      }
    });
  }
};

}  // namespace cub
