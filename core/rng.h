// SPDX-License-Identifier: Apache-2.0
// Randomness without state: Philox4x32-10 maps (counter, key) to 128 random bits. A draw is named
// by what it is for (step, sample, layer, head, purpose, element), never by who makes it or when,
// so every rank, thread and replay sees the same bits. Source: Salmon, Moraes, Dror, Shaw,
// "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
#pragma once

#include <array>
#include <cstdint>

#include "core/host_device.h"

namespace stipple {

struct PhiloxKey {
  uint32_t k0 = 0;
  uint32_t k1 = 0;
};
using PhiloxCounter = std::array<uint32_t, 4>;

namespace philox {
inline constexpr uint32_t kMultiplier0 = 0xD2511F53u;
inline constexpr uint32_t kMultiplier1 = 0xCD9E8D57u;
inline constexpr uint32_t kWeyl0 = 0x9E3779B9u;
inline constexpr uint32_t kWeyl1 = 0xBB67AE85u;
inline constexpr int kRounds = 10;

/// The halves of a product.
struct Product {
  uint32_t high;
  uint32_t low;
};
STIPPLE_HD inline Product multiply_wide(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__)
  Product p;  // of a shift, nvcc makes an addition of zero
  asm("{ .reg .u64 p; mul.wide.u32 p, %2, %3; mov.b64 {%1, %0}, p; }"
      : "=r"(p.high), "=r"(p.low)
      : "r"(a), "r"(b));
  return p;
#else
  const uint64_t p = uint64_t{a} * b;
  return {static_cast<uint32_t>(p >> 32), static_cast<uint32_t>(p)};
#endif
}
}  // namespace philox

/// 128 random bits of (counter, key).
STIPPLE_HD inline PhiloxCounter philox4x32(PhiloxCounter c, PhiloxKey key) {
  for (int round = 0; round < philox::kRounds; ++round) {
    const philox::Product p0 = philox::multiply_wide(philox::kMultiplier0, c[0]);
    const philox::Product p1 = philox::multiply_wide(philox::kMultiplier1, c[2]);
    c = {p1.high ^ c[1] ^ key.k0, p1.low, p0.high ^ c[3] ^ key.k1, p0.low};
    key.k0 += philox::kWeyl0;
    key.k1 += philox::kWeyl1;
  }
  return c;
}

/// A bijective 64-bit mixer (Steele, Lea, Flood 2014).
STIPPLE_HD inline uint64_t splitmix64(uint64_t x) {
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

/// What a draw is for. Two draws with different purposes never share bits.
enum class Purpose : uint8_t {
  kEdgeCount = 1,  ///< how many candidate edges a row draws
  kEdgeDraw = 2,   ///< which keys they are
  kEdgeThin = 3,   ///< acceptance of a candidate
  kEdgeTile = 4,   ///< one uniform per (query, key) pair
  kAttentionDropout = 5,
  kDropout = 6,  ///< activations; `head` numbers the site within a layer
  kData = 7,
};

/// The streams of one pass over one batch: key = mix(seed, step); the rest goes into the counter.
struct RngKey {
  uint64_t seed = 0;
  uint64_t step = 0;
  /// When given, the step stands there, in device memory, and `step` is ignored: a captured CUDA
  /// graph is replayed with another step.
  const uint64_t* device_step = nullptr;

  /// Call it where device_step can be read: on the CPU when there is none, else in a kernel.
  STIPPLE_HD PhiloxKey philox() const {
    const uint64_t now = device_step == nullptr ? step : *device_step;
    const uint64_t k = splitmix64(splitmix64(seed) ^ now);
    return {static_cast<uint32_t>(k), static_cast<uint32_t>(k >> 32)};
  }
};

/// The counter word that separates layers, heads and purposes: 12 + 12 + 8 bits.
STIPPLE_HD inline uint32_t stream_word(int layer, int head, Purpose purpose) {
  return static_cast<uint32_t>(layer) << 20 | static_cast<uint32_t>(head) << 8 |
         static_cast<uint32_t>(purpose);
}

/// Counter layout used everywhere: {block within the row, row, global sample, stream_word}.
STIPPLE_HD inline PhiloxCounter rng_counter(uint32_t block, uint32_t row, uint32_t sample,
                                            uint32_t stream) {
  return {block, row, sample, stream};
}

/// Uniform in [0, 1) with 24 bits.
STIPPLE_HD inline float to_unit_float(uint32_t bits) {
  return static_cast<float>(bits >> 8) * 0x1.0p-24f;
}
/// Uniform in [0, 1) with 53 bits.
STIPPLE_HD inline double to_unit_double(uint32_t hi, uint32_t lo) {
  return static_cast<double>((uint64_t{hi} << 32 | lo) >> 11) * 0x1.0p-53;
}

}  // namespace stipple
