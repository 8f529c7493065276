// SPDX-License-Identifier: Apache-2.0
// The angles of positions.h.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/host_device.h"

namespace stipple::kernels::math {

/// By how much pair i of a vector of `width` channels turns from one position to the next. Its
/// product with a position is the angle, in double: a float would be wrong by 0.004 at position
/// 65,536.
STIPPLE_HD inline double turn_per_position(int64_t i, int64_t width) {
  constexpr double kBase = 10000.0;  // both sources
  return std::pow(kBase, -2.0 * static_cast<double>(i) / static_cast<double>(width));
}

}  // namespace stipple::kernels::math
