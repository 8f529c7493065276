// SPDX-License-Identifier: Apache-2.0
// Exact Bernoulli edges out of Poisson draws: draw at c times the rate, keep a distinct key with
// probability p / (1 - e^(-c p)). The ratio is at most 1 while c >= -ln(1 - p) / p. No libm: every
// backend computes the same bits. Every multiply-add is spelled out, because compilers fuse what is
// left to them differently for each instruction set.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/rng.h"

namespace stipple::kernels::math {

/// Rows whose largest probability exceeds this are drawn pair by pair: oversampling would cost more
/// than four draws per key.
inline constexpr float kLargestThinnedProbability = 0.98f;

/// c >= -ln(1 - p) / p, by no more than 1e-8 of it, for p in (0, 0.98].
STIPPLE_HD inline double oversampling(double p) {
  // -ln(1 - p) = 2^3 (-ln (1 - p)^(1/8)); each step is p -> 1 - sqrt(1 - p), written without
  // cancellation.
  double root = p;
  for (int halving = 0; halving < 3; ++halving) root = root / (1.0 + std::sqrt(1.0 - root));
  // -ln(1 - r) = 2 atanh(s), s = r / (2 - r) <= 0.24.
  const double s = root / (2.0 - root);
  const double s2 = s * s;
  double series = 0.0;
  for (int k = 15; k >= 1; k -= 2) series = std::fma(series, s2, 1.0 / k);
  constexpr double kSafety = 1.0 + 1e-9;
  return 16.0 * s * series / p * kSafety;
}

/// p / (1 - e^(-c p)) for 0 <= c p < 4, absolute error below 1e-10. At p = 0 it is 1 / c.
STIPPLE_HD [[gnu::always_inline]] inline double thinning_ratio(double p, double c) {
  // x / (1 - e^-x) = x / 2 + (x / 2) coth(x / 2), and the second term is a polynomial in x^2
  // (Chebyshev fit on [0, 16]).
  const double x = c * p;
  const double t = x * x;
  double even = 1.4680162679342317e-15;
  even = std::fma(even, t, -1.7490037173440593e-13);
  even = std::fma(even, t, 1.086248719109757e-11);
  even = std::fma(even, t, -5.030167833148689e-10);
  even = std::fma(even, t, 2.0711468915513053e-08);
  even = std::fma(even, t, -8.260490418307911e-07);
  even = std::fma(even, t, 3.3067197653853476e-05);
  even = std::fma(even, t, -0.00138888696703367);
  even = std::fma(even, t, 0.08333333242374921);
  even = std::fma(even, t, 1.000000000071362);
  return std::fma(0.5, x, even) / c;
}

/// A 32-bit uniform below this is below 2^32 thinning_ratio(p, c) for every p, because the ratio
/// grows with p from 1 / c on: sparse rows keep nearly all candidates without looking at p. 0 for
/// c = 0.
STIPPLE_HD inline uint32_t certain_word(double c) {
  constexpr double kSafety = 1.0 - 1e-9;
  return c < 1.0 ? 0u : static_cast<uint32_t>(kSafety / c * 0x1p32);
}

/// A row's oversampling as a fixed-point number with 32 binary places, so that rates stay integers.
class FixedOversampling {
 public:
  /// For a bound on the row's probabilities, in (0, 0.98].
  STIPPLE_HD explicit FixedOversampling(float bound)
      : fixed_(static_cast<uint64_t>(oversampling(static_cast<double>(bound)) * kUnit) + 1) {}

  STIPPLE_HD uint64_t scale(uint64_t rate) const {
    __extension__ using Wide = unsigned __int128;
    return static_cast<uint64_t>(static_cast<Wide>(rate) * fixed_ >> 32);
  }
  STIPPLE_HD double factor() const { return static_cast<double>(fixed_) / kUnit; }

 private:
  static constexpr double kUnit = 0x1p32;
  uint64_t fixed_;
};

/// The probability to keep a candidate of probability q, not yet cut off at 1; c = 0: the
/// candidates are all keys. NaN draws nothing.
STIPPLE_HD [[gnu::always_inline]] inline double acceptance(float q, double c) {
  const auto p = static_cast<double>(q < 1.0f ? q : (q >= 1.0f ? 1.0f : 0.0f));
  return c == 0.0 ? p : thinning_ratio(p, c);
}

/// 31 bits because AVX2 converts to signed integers only.
inline constexpr float kKeepScale = 0x1p31f;

/// A pair of probability p is kept where word >> 1 is below this: floor(2^31 p), so always where p
/// >= 1, and never where p is NaN.
STIPPLE_HD [[gnu::always_inline]] inline uint32_t keep_threshold(float p) {
  return static_cast<uint32_t>(std::fmin(std::fmax(p, 0.0f), 1.0f) * kKeepScale);
}

}  // namespace stipple::kernels::math
