// SPDX-License-Identifier: Apache-2.0
// Which tokens of a sequence are real: a mask's row, or null where all are.
#pragma once

#include "kernels/cuda/sums.h"

namespace stipple::kernels::cuda {

__device__ inline bool is_real(const uint8_t* mask, int64_t i) {
  return mask == nullptr || mask[i] != 0;
}

/// By a block of kThreads threads, which all get it; `sums` has a place per warp.
template <int kThreads>
__device__ inline int64_t count_real(const uint8_t* mask, int64_t n, int64_t* sums) {
  if (mask == nullptr) return n;
  int64_t count = 0;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) count += mask[i] != 0 ? 1 : 0;
  return block_sum<kThreads>(count, sums);
}

}  // namespace stipple::kernels::cuda
