// SPDX-License-Identifier: Apache-2.0
// The AdamW update of one parameter and the scalars it needs; the formulas are in kernels/adamw.h.
#pragma once

#include <cmath>

#include "core/host_device.h"
#include "kernels/adamw.h"

namespace stipple::kernels::math {

/// What does not change from step to step.
struct UpdateRule {
  double clip_norm, beta2;
  float eps;
  bool corrects_bias;
};

/// The scalars of the update that follows `applied_before` others.
STIPPLE_HD inline UpdateScalars update_scalars(const UpdateRates& rates, const UpdateRule& rule,
                                               double squared_norm, int64_t applied_before) {
  const double norm = std::sqrt(squared_norm);
  const bool is_clipped = rule.clip_norm > 0 && norm > rule.clip_norm;
  const auto updates = static_cast<double>(applied_before + 1);
  const bool corrects = rule.corrects_bias;
  const double correction1 =
      corrects ? 1.0 - std::pow(static_cast<double>(rates.beta1), updates) : 1.0;
  const double correction2 = corrects ? 1.0 - std::pow(rule.beta2, updates) : 1.0;
  return {.learning_rate = rates.learning_rate,
          .beta1 = rates.beta1,
          .beta2 = static_cast<float>(rule.beta2),
          .eps = rule.eps,
          .grad_scale = is_clipped ? static_cast<float>(rule.clip_norm / norm) : 1.0f,
          .inverse_correction1 = static_cast<float>(1.0 / correction1),
          .inverse_correction2 = static_cast<float>(1.0 / correction2),
          .is_applied = rates.is_wanted != 0 && std::isfinite(norm) ? 1 : 0};
}

STIPPLE_HD inline void adamw_update(const UpdateScalars& s, float weight_decay, float grad,
                                    float& x, float& m, float& v) {
  const float g = grad * s.grad_scale;
  m = s.beta1 * m + (1.0f - s.beta1) * g;
  v = s.beta2 * v + (1.0f - s.beta2) * g * g;
  const float root = std::sqrt(v * s.inverse_correction2);
  x -= s.learning_rate * (m * s.inverse_correction1 / (root + s.eps) + weight_decay * x);
}

}  // namespace stipple::kernels::math
