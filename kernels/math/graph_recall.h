// SPDX-License-Identifier: Apache-2.0
// One row of graph_recall, as every backend counts it.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/host_device.h"

namespace stipple::kernels::math {

/// How an entmax row weighs a score.
struct EntmaxWeight {
  float factor = 1.0f;    ///< of q.k, to compare with tau: (alpha - 1) temperature scale
  double exponent = 2.0;  ///< 1 / (alpha - 1)
  float tau = 0.0f;
  float edge = 0.0f;  ///< what is nearer to tau than rounding lies in the support

  STIPPLE_HD float above(float dot) const { return factor * dot - tau; }
  STIPPLE_HD double of(float above) const {
    return above > 0.0f ? std::pow(static_cast<double>(above), exponent) : 0.0;
  }
};

/// Attention adds up its scores in another order.
inline constexpr float kRounding = 0x1p-20f;

STIPPLE_HD inline EntmaxWeight entmax_weight(float alpha, float temperature, float scale,
                                             float tau) {
  return {.factor = (alpha - 1.0f) * temperature * scale,
          .exponent = 1.0 / (static_cast<double>(alpha) - 1.0),
          .tau = tau,
          .edge = kRounding * (1.0f + std::fabs(tau))};
}

struct RowRecall {
  double weight = 0.0;  ///< on edges
  int32_t found = 0;    ///< edges in the support

  STIPPLE_HD void add(const EntmaxWeight& rule, float dot) {
    const float above = rule.above(dot);
    weight += rule.of(above);
    found += above > -rule.edge ? 1 : 0;
  }
  STIPPLE_HD double dropped() const { return weight < 1.0 ? 1.0 - weight : 0.0; }
};

}  // namespace stipple::kernels::math
