// SPDX-License-Identifier: Apache-2.0
// The dot product of the samplers on vectors; gives the bits of scalar.cpp.
#pragma once

#include "kernels/cpu/simd.h"

namespace stipple::kernels::cpu::STIPPLE_SIMD {

inline float lane_dot(const float* a, const float* b, int64_t n) {
  constexpr int kParts = 16 / kWidth;
  Floats sums[kParts] = {};
  for (Floats& sum : sums) sum = splat(0.0f);
  int64_t k = 0;
  for (; k + 16 <= n; k += 16) {
    for (int part = 0; part < kParts; ++part) {
      const int64_t at = k + part * kWidth;
      sums[part] = fma(load(a + at), load(b + at), sums[part]);
    }
  }
  for (int part = 0; part < kParts && k + part * kWidth < n; ++part) {
    const int64_t at = k + part * kWidth;
    const Mask rest = first_lanes(n - at);
    sums[part] = fma(load(a + at, rest), load(b + at, rest), sums[part]);
  }
  for (int part = 1; part < kParts; ++part) sums[0] = sums[0] + sums[part];
  return reduce_add(sums[0]);
}

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
