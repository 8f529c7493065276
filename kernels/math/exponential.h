// SPDX-License-Identifier: Apache-2.0
// exp in float without branches or calls, so that loops over it vectorise. Relative error below
// 2e-7. Source: Cephes expf (Moshier), reduction by ln 2 in two parts and a polynomial of degree 5.
#pragma once

#include <bit>
#include <cstdint>

#include "core/rng.h"

namespace stipple::kernels::math {

/// exp(x); x below -87 gives exp(-87) (1.6e-38), x above 88 gives exp(88). NaN gives NaN.
STIPPLE_HD inline float exponential(float x) {
  constexpr float kLowest = -87.0f;
  constexpr float kHighest = 88.0f;
  x = x < kLowest ? kLowest : x;
  x = x > kHighest ? kHighest : x;
  // Adding 1.5 * 2^23 leaves the nearest integer in the low mantissa bits: no conversion that NaN
  // could upset.
  constexpr float kRound = 12582912.0f;
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;
  constexpr float kLn2Low = -2.12194440e-4f;
  const float shifted = x * kLog2E + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float mantissa = p * (r * r) + r + 1.0f;
  constexpr int kMantissaBits = 23;
  const uint32_t exponent = std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(kRound);
  return std::bit_cast<float>(std::bit_cast<uint32_t>(mantissa) + (exponent << kMantissaBits));
}

}  // namespace stipple::kernels::math
