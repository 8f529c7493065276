// SPDX-License-Identifier: Apache-2.0
// The gradient of alpha of one row (kernels/entmax.h), by a warp: each lane adds the keys that it
// has. In double: near alpha 1 it is a difference of nearly equal numbers over (alpha - 1)^2.
#pragma once

#include "kernels/cuda/sums.h"
#include "kernels/entmax.h"

namespace stipple::kernels::cuda {

struct AlphaGradient {
  double weight = 0.0;     ///< sum p
  double weights = 0.0;    ///< sum p dp
  double slopes = 0.0;     ///< sum u
  double mean = 0.0;       ///< sum u dp
  double entropy = 0.0;    ///< sum l, l = p log p
  double entropies = 0.0;  ///< sum l dp
  double square = 0.0;     ///< sum p log^2 p
  double squares = 0.0;    ///< sum p log^2 p dp

  __device__ void add(float of_key, float slope, float dweight) {
    if (!(of_key > 0.0f)) return;
    const double p = static_cast<double>(of_key), u = static_cast<double>(slope);
    const double dp = static_cast<double>(dweight), log_p = log(p);
    weight += p;
    weights += p * dp;
    slopes += u;
    mean += u * dp;
    entropy += p * log_p;
    entropies += p * log_p * dp;
    square += p * log_p * log_p;
    squares += p * log_p * log_p * dp;
  }

  /// Warp-wide; all lanes get it.
  __device__ float total(float alpha) const {
    // What is missing of 1 would be divided by (alpha - 1)^2.
    const double s = lanes_sum(weight), u = lanes_sum(slopes);
    const double w = lanes_sum(weights) / s, sum_u_dp = lanes_sum(mean);
    const double l = lanes_sum(entropy) / s, b = lanes_sum(entropies) / s;
    const double q = lanes_sum(square) / s, q_dp = lanes_sum(squares) / s;
    if (!(u > 0.0)) return static_cast<float>(u);
    const double below = static_cast<double>(alpha) - 1.0;
    if (below < static_cast<double>(kEntmaxNearOne)) return static_cast<float>((w * q - q_dp) / 2);
    const double delta = sum_u_dp / u;
    return static_cast<float>((w - delta) / (below * below) - (b - delta * l) / below);
  }
};

}  // namespace stipple::kernels::cuda
