// SPDX-License-Identifier: Apache-2.0
// tau and weights of a short list in double precision, as plain loops: for the bodies that
// vectorised ones are tested against.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/entmax.h"

namespace stipple::kernels::cpu::scalar {

/// What entmax makes of a row's candidates, x = (alpha - 1) z of each.
struct EntmaxSolution {
  double tau = std::numeric_limits<double>::infinity();
  float best = 0.0f;            ///< the largest candidate
  std::vector<size_t> support;  ///< ascending
};

/// tau as it is kept: below the best candidate, however coarse numbers of its size are.
inline float rounded_tau(const EntmaxSolution& s) {
  const auto tau = static_cast<float>(s.tau);
  return s.support.empty() || tau < s.best
             ? tau
             : std::nextafter(s.best, -std::numeric_limits<float>::infinity());
}

inline double raise(double base, double exponent) {
  return base > 0.0 ? std::pow(base, exponent) : 0.0;
}

/// The root of sum_j [x_j - t]_+ ^ b = 1, x relative to the largest.
inline double solve_entmax(const std::vector<double>& x, double alpha) {
  const double b = 1.0 / (alpha - 1.0);
  const auto sum = [&](double t, double exponent) {
    double total = 0.0;
    for (const double value : x) {
      if (value > t) total += std::pow(value - t, exponent);
    }
    return total;
  };
  double low = -1.0;
  constexpr int kMostSteps = 200;
  if (alpha <= 2.0) {
    for (int step = 0; step < kMostSteps; ++step) {
      const double s0 = sum(low, b);
      const double up = (s0 - std::pow(s0, 2.0 - alpha)) / sum(low, b - 1.0);
      if (!(up > 1e-15)) break;
      low += up;
    }
    return low;
  }
  double high = 0.0;
  for (int step = 0; step < kMostSteps && low + (high - low) / 2 > low; ++step) {
    const double middle = low + (high - low) / 2;
    (sum(middle, b) >= 1.0 ? low : high) = middle;
  }
  return low;
}

/// The support is the shortest list of best candidates, equal ones together, of which tau leaves no
/// other above it: a rule that does not ask what else there is.
inline EntmaxSolution entmax_of(const std::vector<float>& x, double alpha) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  EntmaxSolution result;
  double best = -kInfinity;
  for (const float value : x) {
    if (std::isnan(value) || value == kInfinity) {
      result.tau = std::numeric_limits<double>::quiet_NaN();
      return result;
    }
    best = std::max(best, double{value});
  }
  if (best == -kInfinity) return result;
  std::vector<size_t> order;
  std::vector<double> relative(x.size());
  for (size_t e = 0; e < x.size(); ++e) {
    relative[e] = double{x[e]} - best;
    if (relative[e] > -1.0) order.push_back(e);
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return x[a] > x[b]; });
  std::vector<double> all;
  for (const size_t e : order) all.push_back(relative[e]);
  // Whoever is that far above tau belongs to the support, whatever is rounded.
  constexpr double kCertain = 1e-9;
  const double near = solve_entmax(all, alpha);
  size_t count = 0;
  while (count < order.size() && all[count] > near + kCertain) ++count;
  double tau = 0.0;
  for (;;) {
    while (count > 0 && count < order.size() && x[order[count]] == x[order[count - 1]]) ++count;
    result.support.assign(order.begin(), order.begin() + static_cast<int64_t>(count));
    std::sort(result.support.begin(), result.support.end());
    std::vector<double> own;
    for (const size_t e : result.support) own.push_back(relative[e]);
    tau = solve_entmax(own, alpha);
    if (count == order.size() || all[count] <= tau) break;
    ++count;
  }
  result.tau = best + tau;
  result.best = static_cast<float>(best);
  return result;
}

/// Gradients of a row from p and dp (kernels/entmax.h).
struct EntmaxGradient {
  std::vector<double> dz;
  double dalpha = 0.0;
};

inline EntmaxGradient entmax_gradient(const std::vector<double>& p, const std::vector<double>& dp,
                                      double alpha) {
  const double above = alpha - 1.0;
  std::vector<double> u(p.size()), log(p.size());
  double sum_u = 0, sum_u_dp = 0, sum_log = 0, sum_square = 0;
  for (size_t e = 0; e < p.size(); ++e) {
    if (!(p[e] > 0.0)) continue;
    u[e] = std::pow(p[e], 2.0 - alpha);
    log[e] = std::log(p[e]);
    sum_u += u[e];
    sum_u_dp += u[e] * dp[e];
    sum_log += p[e] * log[e];
    sum_square += p[e] * log[e] * log[e];
  }
  EntmaxGradient result{std::vector<double>(p.size())};
  for (size_t e = 0; e < p.size(); ++e) {
    if (!(p[e] > 0.0)) continue;
    const double share = u[e] / sum_u;
    result.dz[e] = u[e] * (dp[e] - sum_u_dp / sum_u);
    result.dalpha +=
        dp[e] * (above < double{kEntmaxNearOne} ? p[e] * (sum_square - log[e] * log[e]) / 2
                                                : (p[e] - share) / (above * above) -
                                                      (p[e] * log[e] - share * sum_log) / above);
  }
  return result;
}

}  // namespace stipple::kernels::cpu::scalar
