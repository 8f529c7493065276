// SPDX-License-Identifier: Apache-2.0
// Weights of a settled support, and the gradient of alpha over it.
#pragma once

#include "kernels/cpu/entmax/solver_simd.h"

namespace stipple::kernels::cpu::STIPPLE_SIMD {

/// p and u = p^(2 - alpha) of x, whole vectors; p may be x. Returns the sum of u.
template <Power kPower>
inline float entmax_weights(const EntmaxCurve<kPower>& curve, const float* x, float* p, float* u,
                            int64_t count, float tau) {
  Floats weights = splat(0.0f);
  for (int64_t e = 0; e < count; e += kWidth) {
    const Floats above = above_tau(load(x + e), tau);
    const Floats slope = curve.slope(above);
    weights = fma(slope, above, weights);
    store(u + e, slope);
    store(p + e, slope * above);
  }
  const float sum = reduce_add(weights);
  const Floats of_p = splat(1.0f / sum);
  const Floats of_u = splat(kPower == Power::kLinear ? 1.0f : raise(sum, curve.alpha - 2.0f));
  Floats slopes = splat(0.0f);
  for (int64_t e = 0; e < count; e += kWidth) {
    const Floats slope = load(u + e) * of_u;
    slopes = slopes + slope;
    store(u + e, slope);
    store(p + e, load(p + e) * of_p);
  }
  return reduce_add(slopes);
}

/// dL/dalpha of a row from p and dp of its support (kernels/entmax.h), in double precision: terms
/// nearly cancel.
inline float alpha_gradient(const float* p, const float* dp, int64_t count, float alpha_of_row) {
  const double alpha = alpha_of_row;
  const double above = alpha - 1.0;
  double sum = 0.0;
  for (int64_t e = 0; e < count; ++e) sum += double{p[e]};
  double of_u = 0.0, of_log = 0.0, of_square = 0.0;
  double p_dp = 0.0, u_dp = 0.0, log_dp = 0.0, square_dp = 0.0;
  for (int64_t e = 0; e < count; ++e) {
    const double weight = double{p[e]} / sum;
    if (!(weight > 0.0)) continue;
    const double gradient = dp[e];
    const double log_weight = ::log(weight);
    const double u = ::exp((2.0 - alpha) * log_weight);
    of_u += u;
    of_log += weight * log_weight;
    of_square += weight * log_weight * log_weight;
    p_dp += weight * gradient;
    u_dp += u * gradient;
    log_dp += weight * log_weight * gradient;
    square_dp += weight * log_weight * log_weight * gradient;
  }
  if (count == 0) return 0.0f;
  if (above < double{kEntmaxNearOne}) {
    return static_cast<float>((p_dp * of_square - square_dp) / 2.0);
  }
  const double delta = u_dp / of_u;
  return static_cast<float>((p_dp - delta) / (above * above) - (log_dp - delta * of_log) / above);
}

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
