// SPDX-License-Identifier: Apache-2.0
// One head's alpha and temperature, and one value on an annealed path, as every backend computes
// them.
#pragma once

#include "core/host_device.h"
#include "kernels/entmax_heads.h"
#include "kernels/math/exponential.h"
#include "kernels/math/sigmoid.h"

namespace stipple::kernels::math {

STIPPLE_HD inline float entmax_alpha(const SetEntmaxHeads& a, int64_t head) {
  if (a.alpha_weight.data == nullptr) return a.low;
  const float alpha = a.low + (a.high - a.low) * sigmoid(a.alpha_weight.data[head]);
  return alpha < kEntmaxHeldAbove ? kEntmaxHeldAbove : alpha;
}

STIPPLE_HD inline float entmax_temperature(const float* weight, int64_t head) {
  return weight == nullptr ? 1.0f : exponential(weight[head]);
}

/// d alpha / d alpha_weight.
STIPPLE_HD inline double entmax_alpha_slope(const SetEntmaxHeadsBackward& a, int64_t head) {
  const auto share = static_cast<double>(sigmoid(a.alpha_weight.data[head]));
  return static_cast<double>(a.high - a.low) * share * (1.0 - share);
}

STIPPLE_HD inline float annealed(const Anneal& a) {
  const uint64_t step = a.rng.device_step == nullptr ? a.rng.step : *a.rng.device_step;
  const double share = static_cast<double>(step) / static_cast<double>(a.steps);
  return static_cast<float>(share >= 1.0 ? a.to : a.from + (a.to - a.from) * share);
}

/// Pairs among the real tokens of one sequence.
STIPPLE_HD inline int64_t pairs_among(int64_t tokens, bool is_causal) {
  return is_causal ? tokens * (tokens + 1) / 2 : tokens * tokens;
}

}  // namespace stipple::kernels::math
