// SPDX-License-Identifier: Apache-2.0
#include "kernels/squared_error.h"

#include <cmath>

namespace stipple::kernels::cpu {

/// A row per example: too few to share among threads.
void squared_error(const Stream&, const SquaredError& args) {
  double loss = 0;
  int64_t count = 0;
  for (int64_t r = 0; r < args.y.numel(); ++r) {
    const bool is_counted = !std::isnan(args.target[r]);
    const float error = is_counted ? args.y[r] - args.target[r] : 0.0f;
    loss += static_cast<double>(error) * static_cast<double>(error);
    count += is_counted ? 1 : 0;
    if (!args.dy.empty()) args.dy[r] = 2.0f * error * args.scale[0];
  }
  args.loss_sum[0] += loss;
  args.count[0] += count;
}

}  // namespace stipple::kernels::cpu
