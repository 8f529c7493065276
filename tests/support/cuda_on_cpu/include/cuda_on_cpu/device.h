// SPDX-License-Identifier: Apache-2.0
// The twins of the wrappers in kernels/cuda/device.cuh. What each does is said there.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <source_location>

#include "cuda_on_cpu/kernel.h"
#include "cuda_on_cpu/warp.h"

namespace stipple::kernels::cuda {

inline void sync_threads(std::source_location where = std::source_location::current()) {
  cuda_on_cpu::wait_at_barrier(where);
}
inline void sync_warp(std::source_location where = std::source_location::current()) {
  cuda_on_cpu::warp_wide(cuda_on_cpu::meet, nullptr, where);
}

inline std::byte* shared_memory() { return cuda_on_cpu::dynamic_shared_memory(); }

template <class T>
T shuffle(T value, int lane, std::source_location where = std::source_location::current()) {
  return cuda_on_cpu::exchange(value, lane & 31, where);
}
template <class T>
T shuffle_xor(T value, int mask, std::source_location where = std::source_location::current()) {
  return cuda_on_cpu::exchange(value, (cuda_on_cpu::current_lane ^ mask) & 31, where);
}
template <class T>
T shuffle_up(T value, int delta, std::source_location where = std::source_location::current()) {
  const int lane = cuda_on_cpu::current_lane;
  return cuda_on_cpu::exchange(value, lane < delta ? lane : lane - delta, where);
}
inline uint32_t ballot(bool flag, std::source_location where = std::source_location::current()) {
  cuda_on_cpu::Vote vote{flag, 0};
  cuda_on_cpu::warp_wide(cuda_on_cpu::count_votes, &vote, where);
  return vote.result;
}

// Only one thread runs at a time, so plain arithmetic is atomic.
inline uint32_t atomic_or(uint32_t* p, uint32_t bits) {
  const uint32_t old = *p;
  *p = old | bits;
  return old;
}
inline uint32_t atomic_add(uint32_t* p, uint32_t value) {
  const uint32_t old = *p;
  *p = old + value;
  return old;
}
inline int32_t atomic_add(int32_t* p, int32_t value) {
  const int32_t old = *p;
  *p = static_cast<int32_t>(static_cast<uint32_t>(old) + static_cast<uint32_t>(value));
  return old;
}
inline int64_t atomic_add(int64_t* p, int64_t value) {
  const int64_t old = *p;
  *p = static_cast<int64_t>(static_cast<uint64_t>(old) + static_cast<uint64_t>(value));
  return old;
}
inline uint64_t atomic_add(uint64_t* p, uint64_t value) {
  const uint64_t old = *p;
  *p = old + value;
  return old;
}
inline uint32_t atomic_exchange_if(uint32_t* p, uint32_t expected, uint32_t desired) {
  const uint32_t old = *p;
  if (old == expected) *p = desired;
  return old;
}
inline int32_t atomic_max(int32_t* p, int32_t value) {
  const int32_t old = *p;
  *p = old < value ? value : old;
  return old;
}

inline int popcount(uint32_t x) { return std::popcount(x); }
inline int lowest_bit(uint32_t x) { return x == 0 ? -1 : std::countr_zero(x); }
inline uint64_t multiply_high(uint64_t a, uint64_t b) {
  __extension__ using uint128 = unsigned __int128;
  return static_cast<uint64_t>(static_cast<uint128>(a) * b >> 64);
}

inline float exp2_fast(float x) {
  constexpr float kSmallestNormal = 0x1.0p-126f;
  const float y = std::exp2(x);
  return y < kSmallestNormal ? 0.0f : y;
}
inline float clamp_or_nan(float x, float low, float high) {
  return x < low ? low : x > high ? high : x;
}
inline uint32_t pack_bf16(float low, float high) {
  return uint32_t{cuda_on_cpu::bf16_bits(low)} | uint32_t{cuda_on_cpu::bf16_bits(high)} << 16;
}

inline void copy_async_16(void* shared, const void* global, bool is_valid) {
  cuda_on_cpu::start_copy(shared, global, is_valid);
}
inline void commit_copies() { cuda_on_cpu::commit_copies(); }
template <int kLeft>
void wait_for_copies() {
  cuda_on_cpu::finish_copies(kLeft);
}

inline void load_matrices(uint32_t (&r)[4], const void* shared_row,
                          std::source_location where = std::source_location::current()) {
  cuda_on_cpu::MatrixLoad load{r, shared_row};
  cuda_on_cpu::warp_wide(cuda_on_cpu::load_matrices, &load, where);
}
inline void load_matrices_transposed(uint32_t (&r)[4], const void* shared_row,
                                     std::source_location where = std::source_location::current()) {
  cuda_on_cpu::MatrixLoad load{r, shared_row};
  cuda_on_cpu::warp_wide(cuda_on_cpu::load_matrices_transposed, &load, where);
}
inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                         std::source_location where = std::source_location::current()) {
  cuda_on_cpu::Product product{c, a, b};
  cuda_on_cpu::warp_wide(cuda_on_cpu::multiply_add, &product, where);
}
inline void multiply_from(float (&c)[4], float start, const uint32_t (&a)[4],
                          const uint32_t (&b)[2],
                          std::source_location where = std::source_location::current()) {
  for (float& sum : c) sum = start;
  multiply_add(c, a, b, where);
}

}  // namespace stipple::kernels::cuda
