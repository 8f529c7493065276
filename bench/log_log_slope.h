// SPDX-License-Identifier: Apache-2.0
// How a cost grows with the length: the slope of its logarithm over the length's, by least squares.
#pragma once

#include <cmath>
#include <cstdint>
#include <map>

namespace stipple {

/// costs: by length; of two lengths at least.
inline double log_log_slope(const std::map<int64_t, double>& costs) {
  double sx = 0, sy = 0, sxx = 0, sxy = 0;
  for (const auto& [length, cost] : costs) {
    const double x = std::log(static_cast<double>(length)), y = std::log(cost);
    sx += x, sy += y, sxx += x * x, sxy += x * y;
  }
  const auto n = static_cast<double>(costs.size());
  return (n * sxy - sx * sy) / (n * sxx - sx * sx);
}

}  // namespace stipple
