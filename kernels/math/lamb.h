// SPDX-License-Identifier: Apache-2.0
// The LAMB update of one parameter, and the ratio of one tensor; the formulas are in kernels/lamb.h.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/host_device.h"
#include "kernels/adamw.h"
#include "kernels/lamb.h"

namespace stipple::kernels::math {

STIPPLE_HD inline void lamb_moments(const UpdateScalars& s, float grad, float& m, float& v) {
  const float g = grad * s.grad_scale;
  m = s.beta1 * m + (1.0f - s.beta1) * g;
  v = s.beta2 * v + (1.0f - s.beta2) * g * g;
}

/// u, of the moments after their update.
STIPPLE_HD inline float lamb_direction(const UpdateScalars& s, float weight_decay, float x, float m,
                                       float v) {
  const float root = std::sqrt(v * s.inverse_correction2);
  return m * s.inverse_correction1 / (root + s.eps) + weight_decay * x;
}

STIPPLE_HD inline float trust_ratio(const LambTensor& tensor, double x_squares, double u_squares) {
  if (tensor.adapts == 0 || !(x_squares > 0) || !(u_squares > 0)) return 1.0f;
  return static_cast<float>(std::sqrt(x_squares) / std::sqrt(u_squares));
}

STIPPLE_HD inline TrustRatios summary_of(const LambTensor* tensors, const float* ratios,
                                         int64_t count) {
  double sum = 0;
  float least = 0;
  int64_t adapting = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (tensors[i].adapts == 0) continue;
    least = adapting == 0 || ratios[i] < least ? ratios[i] : least;
    sum += static_cast<double>(ratios[i]);
    ++adapting;
  }
  if (adapting == 0) return {1.0f, 1.0f};
  return {static_cast<float>(sum / static_cast<double>(adapting)), least};
}

}  // namespace stipple::kernels::math
