// SPDX-License-Identifier: Apache-2.0
// How kernels/bound_edges.h decides, on every backend, that a group of keys may hold a query's support.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "core/host_device.h"

namespace stipple::kernels::math {

/// What rounding may have taken from a bound, or from a score below it: sums of d products of a query
/// and a key no longer than these, or than a corner of a box around such keys; and from tau, which
/// came of such scores and was finished to a step of 1e-7.
STIPPLE_HD inline float bound_slack(float query_length, float longest_key, float tau, int64_t d) {
  constexpr float kEpsilon = std::numeric_limits<float>::epsilon();
  constexpr float kTauTolerance = 1e-5f;
  const auto channels = static_cast<float>(d);
  const float products = std::sqrt(channels) * query_length * longest_key;
  return kEpsilon * ((channels + 8.0f) * products + 4.0f * (tau < 0 ? -tau : tau)) + kTauTolerance;
}

/// Whether a group may hold a key above tau: what bounds say of its largest x = (alpha - 1) s. What is
/// no number keeps it.
STIPPLE_HD inline bool may_hold(float box, float ball, float slack, float tau) {
  // A ball that is no number, of keys that are none, is the one that remains.
  const float bound = box < ball ? box : ball;
  if (!(tau < std::numeric_limits<float>::infinity())) return true;
  return !(bound + slack <= tau);
}

}  // namespace stipple::kernels::math
