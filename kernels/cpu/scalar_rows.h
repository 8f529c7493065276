// SPDX-License-Identifier: Apache-2.0
// Rows of channels as plain loops: for the bodies that vectorised ones are tested against.
#pragma once

#include <cstdint>

namespace stipple::kernels::cpu::scalar {

inline float dot(const float* a, const float* b, int64_t n) {
  float sum = 0.0f;
  for (int64_t x = 0; x < n; ++x) sum += a[x] * b[x];
  return sum;
}

inline void add_scaled(float* out, float factor, const float* a, int64_t n) {
  for (int64_t x = 0; x < n; ++x) out[x] += factor * a[x];
}

}  // namespace stipple::kernels::cpu::scalar
