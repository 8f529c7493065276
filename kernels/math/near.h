// SPDX-License-Identifier: Apache-2.0
// Pairs that a predicted graph always has, and pairs that are near each other in a few dimensions,
// as every backend asks it.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/host_device.h"

namespace stipple::kernels::math {

/// |i - j| <= radius (-1: none), and all pairs with one of the first `globals` tokens.
struct AlwaysThere {
  int64_t radius = -1;
  int64_t globals = 0;

  STIPPLE_HD bool has(int64_t i, int64_t j) const {
    const int64_t distance = i < j ? j - i : i - j;
    return distance <= radius || i < globals || j < globals;
  }
};

enum class Nearness : uint8_t {
  kSquaredDistance,  ///< |q - k|^2
  kCosine,           ///< 1 - the cosine of their angle; 1 where one of them is 0
};

/// Plain data: tokens in R dimensions.
struct NearRule {
  const float* q = nullptr;  // [P, N, R]; null: there is no such rule, all pairs are near
  const float* k = nullptr;  // [P, M, R]
  int64_t n = 0, m = 0, r = 0;
  Nearness nearness = Nearness::kSquaredDistance;
  float threshold = 0.0f;
  AlwaysThere always{};

  STIPPLE_HD bool has(int64_t p, int64_t i, int64_t j) const {
    return q == nullptr || always.has(i, j) ||
           distance(q + (p * n + i) * r, k + (p * m + j) * r) < threshold;
  }
  STIPPLE_HD float distance(const float* a, const float* b) const {
    float squared = 0.0f, dot = 0.0f, aa = 0.0f, bb = 0.0f;
    for (int64_t e = 0; e < r; ++e) {
      squared += (a[e] - b[e]) * (a[e] - b[e]);
      dot += a[e] * b[e];
      aa += a[e] * a[e];
      bb += b[e] * b[e];
    }
    if (nearness == Nearness::kSquaredDistance) return squared;
    const float norms = std::sqrt(aa) * std::sqrt(bb);
    return norms > 0.0f ? 1.0f - dot / norms : 1.0f;
  }
};

}  // namespace stipple::kernels::math
