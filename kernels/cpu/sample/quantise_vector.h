// SPDX-License-Identifier: Apache-2.0
// Memberships in bytes, with bounds on what that loses. With a grid (lowest, step) and codes g_k in
// 0..255,
//   x_k - mean(x) = step (g_k - mean(g)) + f_k,   sum_k f_k = 0.
// Norms are upper bounds on those of the exact numbers, but for relative errors of at most 2^-11,
// which whoever uses them makes up for at the end. Numbers that are not finite make `rounding`
// infinite or NaN.
#pragma once

#include <math.h>

#include "kernels/cpu/simd.h"

namespace stipple::kernels::cpu::STIPPLE_SIMD {

/// Beyond, sums of squared codes would no longer be exact in the lanes of AVX2.
inline constexpr int64_t kMostQuantised = 2048;

struct ByteGrid {
  float lowest = 0.0f;
  float range = 0.0f;
  float step = 0.0f;
  float per_step = 0.0f;

  /// A range too small for a grid has one code.
  static ByteGrid of(float lowest, float highest) {
    const float range = highest - lowest;
    if (range < 0x1p-100f) return {lowest, range, 0.0f, 0.0f};
    return {lowest, range, range / 255.0f, 255.0f / range};
  }
};

/// Smallest and largest number seen, NaN left out.
struct ByteRange {
  Floats lowest = splat(std::numeric_limits<float>::infinity());
  Floats highest = splat(-std::numeric_limits<float>::infinity());

  void add(const float* x, int64_t n) {
    int64_t k = 0;
    for (; k + kWidth <= n; k += kWidth) {
      const Floats value = load(x + k);
      lowest = min(value, lowest);
      highest = max(value, highest);
    }
    const Mask rest = first_lanes(n - k);
    const Floats value = load(x + k, rest);
    lowest = select(rest, min(value, lowest), lowest);
    highest = select(rest, max(value, highest), highest);
  }
  ByteGrid grid() const {
    return ByteGrid::of(-reduce_max(splat(0.0f) - lowest), reduce_max(highest));
  }
};

/// What norms are made of; of several vectors on one grid, the largest.
struct ByteFacts {
  float sum = 0.0f;           // |sum x|
  float code_sum = 0.0f;      // exact
  float code_spread = 0.0f;   // sum (g - mean(g))^2
  float left_mean = 0.0f;     // of what the codes leave
  float left_squares = 0.0f;  //

  void raise(const ByteFacts& other) {
    const auto larger = [](float a, float b) { return a < b ? b : a; };
    sum = larger(sum, other.sum);
    code_sum = larger(code_sum, other.code_sum);
    code_spread = larger(code_spread, other.code_spread);
    left_mean = larger(left_mean, other.left_mean);
    const bool is_finite = other.left_squares <= std::numeric_limits<float>::max();
    left_squares = larger(left_squares,
                          is_finite ? other.left_squares : std::numeric_limits<float>::infinity());
  }
};

struct ByteNorms {
  float deviation;     // |step (g - mean(g))|_2
  float above;         // |step g|_1
  float rounding;      // |f|_2
  float rounding_max;  // |f|_inf
  float norm;          // |x|_2

  ByteNorms(const ByteFacts& facts, const ByteGrid& grid, int64_t n) {
    const float root = sqrtf(static_cast<float>(n));
    // What codes leave comes from one subtraction and one fused multiply-add; the second terms are
    // for numbers that underflow.
    const float slack = grid.range * 0x1p-23f + 0x1p-120f;
    deviation = grid.step * sqrtf(facts.code_spread);
    above = grid.step * facts.code_sum;
    rounding = sqrtf(facts.left_squares) + root * (slack + 0x1p-74f);
    // Codes are rounded to nearest, by a factor with three roundings: 255 * 3 * 2^-24 < 0.0001.
    const float nearest = grid.step * 0.5001f + 0x1p-100f + facts.left_mean + 2.0f * slack;
    rounding_max = rounding < nearest ? rounding : nearest;
    norm = facts.sum / root + deviation + rounding;
  }
};

/// Writes whole vectors of codes, 0 beyond x, each exclusive-ored with `flip`. `sum` is that of x,
/// with its sign.
inline ByteFacts quantise(const float* x, int64_t n, const ByteGrid& grid, uint8_t flip,
                          uint8_t* codes, float& sum) {
  const Floats lowest = splat(grid.lowest), per_step = splat(grid.per_step);
  const Floats minus_step = splat(-grid.step);
  const Words flips = splat_words(flip);
  Floats sums = splat(0.0f), left_sum = sums, left_squares = sums;
  Floats code_sum = sums, code_squares = sums;
  const auto add = [&](Floats above, int64_t k) {
    const Floats code = max(min(round_to_nearest(above * per_step), splat(255.0f)), splat(0.0f));
    const Floats left = fma(minus_step, code, above);
    left_sum = left_sum + left;
    left_squares = fma(left, left, left_squares);
    code_sum = code_sum + code;
    code_squares = fma(code, code, code_squares);
    store_bytes(codes + k, truncate(code) ^ flips);
  };
  int64_t k = 0;
  for (; k + kWidth <= n; k += kWidth) {
    const Floats value = load(x + k);
    sums = sums + value;
    add(value - lowest, k);
  }
  if (k < n) {
    const Mask rest = first_lanes(n - k);
    const Floats value = load(x + k, rest);
    sums = sums + value;
    add(select(rest, value - lowest, splat(0.0f)), k);
  }
  // Codes add up exactly, their squares but for the last few additions: hence 2^-20.
  const float total = reduce_add(code_sum);
  const auto size = static_cast<float>(n);
  sum = reduce_add(sums);
  return {.sum = fabsf(sum),
          .code_sum = total,
          .code_spread = fmaf(reduce_add(code_squares), 1.0f + 0x1p-20f, -total * (total / size)),
          .left_mean = fabsf(reduce_add(left_sum) / size),
          .left_squares = reduce_add(left_squares)};
}

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
