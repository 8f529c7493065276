// SPDX-License-Identifier: Apache-2.0
// What the lanes of a warp do together. Each function is called once with the operands of all 32
// lanes.
#pragma once

#include <bit>
#include <cstdint>

#include "cuda_on_cpu/kernel.h"

namespace cuda_on_cpu {

inline constexpr int kLanes = 32;

inline void meet(void* const*) {}

template <class T>
struct Exchange {
  T value;
  int from;
  T result;
};
template <class T>
void exchange_values(void* const* operands) {
  for (int lane = 0; lane < kLanes; ++lane) {
    auto& to = *static_cast<Exchange<T>*>(operands[lane]);
    to.result = static_cast<const Exchange<T>*>(operands[to.from])->value;
  }
}
template <class T>
T exchange(T value, int from, const std::source_location& where) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  Exchange<T> operand{value, from, T{}};
  warp_wide(exchange_values<T>, &operand, where);
  return operand.result;
}

struct Vote {
  bool flag;
  uint32_t result;
};
void count_votes(void* const* operands);

struct MatrixLoad {
  uint32_t* registers;  ///< 4
  const void* row;      ///< 16 bytes
};
void load_matrices(void* const* operands);
void load_matrices_transposed(void* const* operands);

struct Product {
  float* c;           ///< 4
  const uint32_t* a;  ///< 4
  const uint32_t* b;  ///< 2
};
void multiply_add(void* const* operands);

/// Rounds to nearest, ties to even; NaN stays NaN.
inline uint16_t bf16_bits(float x) {
  const auto u = std::bit_cast<uint32_t>(x);
  if ((u & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>(u >> 16 | 0x40u);
  return static_cast<uint16_t>((u + 0x7FFFu + (u >> 16 & 1u)) >> 16);
}
inline float from_bf16_bits(uint32_t bits) { return std::bit_cast<float>(bits << 16); }

}  // namespace cuda_on_cpu
