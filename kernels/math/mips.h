// SPDX-License-Identifier: Apache-2.0
// The coordinate of kernels/mips.h as every backend, and who fits projections, computes it.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/host_device.h"
#include "core/real_view.h"

namespace stipple::kernels::math {

template <class T>
STIPPLE_HD float squared_length(const T* x, int64_t d) {
  float sum = 0.0f;
  for (int64_t c = 0; c < d; ++c) sum += to_float(x[c]) * to_float(x[c]);
  return sum;
}

STIPPLE_HD inline float mips_coordinate(float largest, float squared_length) {
  return largest > squared_length ? std::sqrt(largest - squared_length) : 0.0f;
}

}  // namespace stipple::kernels::math
