// SPDX-License-Identifier: Apache-2.0
// Checks that several operations share.
#pragma once

#include "core/error.h"
#include "core/view.h"

namespace stipple::kernels {

inline void expect_shape(const char* op, const char* name, const Shape& shape,
                         const Shape& expected) {
  STIPPLE_CHECK_AS(ShapeError, shape == expected, op, ": ", name, " has shape ", shape.str(),
                   ", expected ", expected.str());
}

/// A mask of n tokens of each of b sequences, or none.
inline void check_mask(const char* op, const char* name, View<const uint8_t> mask, int64_t b,
                       int64_t n) {
  STIPPLE_CHECK_AS(ShapeError, mask.empty() || mask.shape == Shape({b, n}), op, ": ", name,
                   " has shape ", mask.shape.str(), ", expected ", Shape({b, n}).str(), " or none");
}

}  // namespace stipple::kernels
