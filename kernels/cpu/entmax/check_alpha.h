// SPDX-License-Identifier: Apache-2.0
// The check of entmax that needs numbers and not only shapes.
#pragma once

#include "core/error.h"
#include "kernels/entmax.h"

namespace stipple::kernels::cpu {

/// Error where an alpha is out of range, or no number.
inline void check_alpha(const char* op, View<const float> alpha) {
  for (int64_t h = 0; h < alpha.numel(); ++h) {
    STIPPLE_CHECK(alpha[h] > kEntmaxLeastAlpha && alpha[h] <= kEntmaxMostAlpha, op, ": alpha[", h,
                  "] is ", alpha[h], ", must be above ", kEntmaxLeastAlpha, " and at most ",
                  kEntmaxMostAlpha);
  }
}

}  // namespace stipple::kernels::cpu
