// SPDX-License-Identifier: Apache-2.0
// Sums in a fixed order that still vectorise, and the adding of partial results.
#pragma once

#include <cstdint>

#include "core/stream.h"
#include "core/view.h"
#include "kernels/cpu/vectorize.h"

namespace stipple::kernels::cpu {

/// Sum of term(i), i in [0, n): element i goes to lane i % 16, lanes are added as a tree. The same
/// order on every instruction set, where the compiler alone would either not vectorise or choose
/// its own order.
template <class T, class Term>
STIPPLE_VECTOR_BODY T lane_sum(int64_t n, const Term& term) {
  constexpr int64_t kLanes = 16;
  T lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += term(i + lane);
  }
  for (int64_t lane = 0; i + lane < n; ++lane) lanes[lane] += term(i + lane);
  for (int64_t width = kLanes / 2; width > 0; width /= 2) {
    for (int64_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

/// result[r] = sum over i of partials[r, i] + beta * result[r], added as a binary tree over i.
/// Overwrites partials.
///   result [R, n] (any shape of that size), partials [R, count, n], count >= 1. With beta = 0
///   result is not read.
void add_partials(const Stream& stream, View<float> result, View<float> partials, float beta);

}  // namespace stipple::kernels::cpu
