// SPDX-License-Identifier: Apache-2.0
// bfloat16: the upper half of a float. A storage type: arithmetic happens in float.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include "core/host_device.h"

namespace stipple {

struct bf16 {
  uint16_t bits = 0;
};

/// Rounds to nearest, ties to even; NaN stays NaN.
STIPPLE_HD inline bf16 to_bf16(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  constexpr uint32_t kExponent = 0x7F800000u;
  if ((u & ~0x80000000u) > kExponent) return {static_cast<uint16_t>(u >> 16 | 0x40u)};
  return {static_cast<uint16_t>((u + 0x7FFFu + (u >> 16 & 1u)) >> 16)};
}
STIPPLE_HD inline float to_float(bf16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }

// For code that is written for both storages.
STIPPLE_HD inline float to_float(float x) { return x; }
template <class T>
STIPPLE_HD inline T from_float(float x) {
  if constexpr (std::is_same_v<T, bf16>) {
    return to_bf16(x);
  } else {
    return x;
  }
}

}  // namespace stipple
