// SPDX-License-Identifier: Apache-2.0
// The AdamW update of one parameter; the formula is in kernels/adamw.h.
#pragma once

#include <cmath>

#include "core/rng.h"
#include "kernels/adamw.h"

namespace stipple::kernels::math {

/// The scalars of one step, as the elements use them.
struct AdamWScalars {
  float learning_rate, beta1, beta2, eps, weight_decay, grad_scale;
  float inverse_correction1, inverse_correction2;

  explicit AdamWScalars(const AdamW& args)
      : learning_rate(args.learning_rate),
        beta1(args.beta1),
        beta2(args.beta2),
        eps(args.eps),
        weight_decay(args.weight_decay),
        grad_scale(args.grad_scale),
        inverse_correction1(static_cast<float>(1.0 / args.bias_correction1)),
        inverse_correction2(static_cast<float>(1.0 / args.bias_correction2)) {}
};

STIPPLE_HD inline void adamw_update(const AdamWScalars& s, float grad, float& x, float& m,
                                    float& v) {
  const float g = grad * s.grad_scale;
  m = s.beta1 * m + (1.0f - s.beta1) * g;
  v = s.beta2 * v + (1.0f - s.beta2) * g * g;
  const float root = std::sqrt(v * s.inverse_correction2);
  x -= s.learning_rate * (m * s.inverse_correction1 / (root + s.eps) + s.weight_decay * x);
}

}  // namespace stipple::kernels::math
