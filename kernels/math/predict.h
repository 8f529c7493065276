// SPDX-License-Identifier: Apache-2.0
// What every backend computes alike to group tokens, in one order and without fused multiply-adds.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "core/host_device.h"
#include "kernels/math/sigmoid.h"

namespace stipple::kernels::math {

/// Ascends as x does: -0 and 0 are one, NaN comes last. Without branches, for loops over many.
STIPPLE_HD inline uint32_t ordered_bits(float x) {
  constexpr uint32_t kSign = 0x80000000u, kInfinity = 0x7F800000u;
  const uint32_t bits = std::bit_cast<uint32_t>(x + 0.0f);  // -0 + 0 is 0
  const uint32_t flipped = bits ^ ((0u - (bits >> 31)) | kSign);
  return flipped | (0u - static_cast<uint32_t>((bits & ~kSign) > kInfinity));
}

/// Divides y [R] by its length, where that is not 0.
STIPPLE_HD inline void to_unit_length(float* y, int64_t r) {
  float squares = 0.0f;
  for (int64_t e = 0; e < r; ++e) squares += y[e] * y[e];
  const float length = std::sqrt(squares);
  if (length > 0.0f)
    for (int64_t e = 0; e < r; ++e) y[e] /= length;
}

/// Ascends with the distance of a token to a centroid c, from |c|^2 and their product: by its square,
/// less the token's own. NaN comes last.
STIPPLE_HD inline uint32_t centroid_order(float norm, float dot) {
  return ordered_bits(norm - 2.0f * dot);
}

/// To compare the distances of x to the centroids c [R] of one head, and by number where they are
/// equal.
STIPPLE_HD inline uint64_t centroid_key(uint32_t order, int64_t number) {
  return (uint64_t{order} << 32) | static_cast<uint64_t>(number);
}
STIPPLE_HD inline uint64_t centroid_key(const float* x, const float* c, int64_t r, int64_t number) {
  float norm = 0.0f, dot = 0.0f;
  for (int64_t e = 0; e < r; ++e) {
    norm += c[e] * c[e];
    dot += x[e] * c[e];
  }
  return centroid_key(centroid_order(norm, dot), number);
}
STIPPLE_HD inline int32_t centroid_of(uint64_t centroid_key) {
  return static_cast<int32_t>(centroid_key & 0x7FFFFFFFu);
}

/// To sort tokens by value, and those of one value by place; a token that is not real comes last.
STIPPLE_HD inline uint64_t rank_key(float x, bool is_real, int64_t token) {
  const uint64_t high = is_real ? ordered_bits(x) : 0xFFFFFFFFu;
  return (high << 32) | (is_real ? 0u : 0x80000000u) | static_cast<uint64_t>(token);
}
STIPPLE_HD inline int64_t token_of(uint64_t rank_key) {
  return static_cast<int64_t>(rank_key & 0x7FFFFFFFu);
}

STIPPLE_HD inline int64_t bucket_size(int64_t tokens, int64_t buckets) {
  return (tokens + buckets - 1) / buckets;
}

/// Which of the equal parts of (-1, 1) holds tanh(temperature x), which is 2 sigmoid(2 temperature
/// x) - 1. NaN: the last.
STIPPLE_HD inline int64_t interval_of(float x, float temperature, int64_t buckets) {
  const float at = sigmoid(2.0f * temperature * x) * static_cast<float>(buckets);
  const float last = static_cast<float>(buckets - 1);
  return at < last ? static_cast<int64_t>(at) : buckets - 1;
}

}  // namespace stipple::kernels::math
