// SPDX-License-Identifier: Apache-2.0
// The entropy of kernels/group_occupancy.h, as every backend computes it.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/host_device.h"

namespace stipple::kernels::math {

/// Of groups of these sizes, as a share of that of equal ones; -1 where nobody is in any.
STIPPLE_HD inline double occupancy(const int32_t* sizes, int64_t groups) {
  int64_t total = 0;
  for (int64_t g = 0; g < groups; ++g) total += sizes[g];
  if (total == 0) return -1.0;
  if (groups == 1) return 1.0;
  double entropy = 0;
  for (int64_t g = 0; g < groups; ++g) {
    if (sizes[g] == 0) continue;
    const double share = static_cast<double>(sizes[g]) / static_cast<double>(total);
    entropy -= share * log(share);
  }
  return entropy / log(static_cast<double>(groups));
}

}  // namespace stipple::kernels::math
