// SPDX-License-Identifier: Apache-2.0
// The non-linearities and their derivatives for one element, without branches, so that loops over
// them vectorise; with_activation() is the table of the kinds.
#pragma once

#include <cmath>

#include "kernels/activation.h"
#include "kernels/math/exponential.h"
#include "kernels/math/sigmoid.h"

namespace stipple::kernels::math {

/// The standard normal distribution at x: Phi(x) and its density phi(x).
struct Normal {
  float cdf;
  float density;
};

/// Absolute error of cdf below 1e-7 (2e-7 as erf), relative error below 5e-6 in the left tail down
/// to x = -9. Form: Hastings 1955 (Abramowitz, Stegun 7.1.26): Phi(-a) = exp(-a^2 / 2) P(t), t = 1
/// / (1 + 0.3 a), with our own Remez fit of degree 10 over a in [0, 13] (relative error 4e-9),
/// expanded in s = 1 - t, which is exact where a is small.
STIPPLE_HD inline Normal normal(float x) {
  const float a = 0.3f * std::fabs(x);
  const float e = exponential(-0.5f * x * x);
  const float s = a / (1.0f + a);
  float p = -0.02056617105f;
  p = p * s + 0.09354879503f;
  p = p * s - 0.1438858648f;
  p = p * s + 0.06058423815f;
  p = p * s - 0.0129561166f;
  p = p * s + 0.16298482f;
  p = p * s - 0.0586866552f;
  p = p * s - 0.6991684505f;
  p = p * s + 1.447952591f;
  p = p * s - 1.329807184f;
  p = p * s + 0.5f;
  const float tail = e * p;
  constexpr float kInverseRootTwoPi = 0.398942280f;
  return {x < 0.0f ? tail : 1.0f - tail, e * kInverseRootTwoPi};
}

/// x Phi(x)
STIPPLE_HD inline float gelu(float x) { return x * normal(x).cdf; }
/// Phi(x) + x phi(x)
STIPPLE_HD inline float gelu_derivative(float x) {
  const Normal n = normal(x);
  return n.cdf + x * n.density;
}

STIPPLE_HD inline float relu(float x) { return x > 0.0f ? x : 0.0f; }
STIPPLE_HD inline float relu_derivative_from_output(float y) { return y > 0.0f ? 1.0f : 0.0f; }

STIPPLE_HD inline float sigmoid_derivative_from_output(float y) { return y * (1.0f - y); }

/// Source: Cephes tanhf (Moshier): a polynomial near 0, where 1 - 2 / (e^2x + 1) would cancel.
STIPPLE_HD inline float hyperbolic_tangent(float x) {
  constexpr float kSmall = 0.625f;
  const float a = std::fabs(x);
  const float large = 1.0f - 2.0f / (exponential(2.0f * a) + 1.0f);
  const float z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const float small = p * z * x + x;
  return a < kSmall ? small : std::copysign(large, x);
}
STIPPLE_HD inline float hyperbolic_tangent_derivative_from_output(float y) { return 1.0f - y * y; }

/// One kind: its value at x, its derivative from what is saved for it.
template <float (*f)(float), float (*derivative_from_saved)(float)>
struct Formula {
  STIPPLE_HD static float value(float x) { return f(x); }
  STIPPLE_HD static float derivative(float saved) { return derivative_from_saved(saved); }
};

/// Calls body(Formula<...>{}).
template <class Body>
void with_activation(ActivationKind kind, const Body& body) {
  switch (kind) {
    case ActivationKind::kGelu:
      return body(Formula<gelu, gelu_derivative>{});
    case ActivationKind::kRelu:
      return body(Formula<relu, relu_derivative_from_output>{});
    case ActivationKind::kSigmoid:
      return body(Formula<sigmoid, sigmoid_derivative_from_output>{});
    case ActivationKind::kTanh:
      return body(Formula<hyperbolic_tangent, hyperbolic_tangent_derivative_from_output>{});
  }
}

}  // namespace stipple::kernels::math
