// SPDX-License-Identifier: Apache-2.0
// entmax of one row in double precision by the published algorithms: by sorting for alpha 1.5 and 2
// (Peters et al. 2019; Martins and Astudillo 2016), else by bisection.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

namespace stipple::test {

/// tau of x = (alpha - 1) z, relative to the largest x.
inline double tau_by_bisection(const std::vector<double>& x, double alpha) {
  double low = -1.0, high = 0.0;
  for (int step = 0; step < 200; ++step) {
    const double middle = (low + high) / 2;
    double sum = 0.0;
    for (const double value : x) {
      if (value > middle) sum += std::pow(value - middle, 1 / (alpha - 1));
    }
    (sum >= 1.0 ? low : high) = middle;
  }
  return low;
}

inline double tau_by_sorting(std::vector<double> x, double alpha) {
  std::sort(x.begin(), x.end(), std::greater<>());
  double tau = 0.0, sum = 0.0, squares = 0.0;
  for (size_t k = 1; k <= x.size(); ++k) {
    const double value = x[k - 1];
    if (std::isinf(value)) break;
    const auto count = static_cast<double>(k);
    sum += value;
    squares += value * value;
    const double mean = sum / count;
    const double spread = squares - count * mean * mean;
    const double candidate =
        alpha == 2.0 ? (sum - 1.0) / count : mean - std::sqrt(std::max(0.0, (1 - spread) / count));
    if (alpha == 2.0 ? value <= candidate : candidate > value) break;
    tau = candidate;
  }
  return tau;
}

/// Entries of -inf take no part; nothing else: zeros.
inline std::vector<double> entmax_by_definition(const std::vector<double>& z, double alpha) {
  std::vector<double> x = z;
  for (double& value : x) value *= alpha - 1.0;
  const double best = *std::max_element(x.begin(), x.end());
  std::vector<double> p(z.size(), 0.0);
  if (std::isinf(best)) return p;
  for (double& value : x) value -= best;
  const double tau =
      alpha == 1.5 || alpha == 2.0 ? tau_by_sorting(x, alpha) : tau_by_bisection(x, alpha);
  double sum = 0.0;
  for (size_t j = 0; j < x.size(); ++j) {
    if (x[j] > tau) p[j] = std::pow(x[j] - tau, 1 / (alpha - 1));
    sum += p[j];
  }
  for (double& value : p) value /= sum;
  return p;
}

}  // namespace stipple::test
