// SPDX-License-Identifier: Apache-2.0
#include "kernels/attend_entmax_reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace stipple::kernels::reference {
namespace {

constexpr double kEndless = std::numeric_limits<double>::infinity();
constexpr double kSoftmaxAlpha = 1.0;
/// Below it, differences of the closed form over (alpha - 1)^2 lose more than the limit is off.
constexpr double kLimitBelow = 1e-5;

/// sum_j [x_j - tau]_+ ^ power; `shares`, where given, gets the terms.
double mass_above(std::span<const double> x, double tau, double power, Doubles* shares = nullptr) {
  double sum = 0.0;
  for (size_t j = 0; j < x.size(); ++j) {
    const double share = x[j] > tau ? std::pow(x[j] - tau, power) : 0.0;
    if (shares != nullptr) (*shares)[j] = share;
    sum += share;
  }
  return sum;
}

EntmaxRow softmax_row(std::span<const double> z, double highest) {
  EntmaxRow row{Doubles(z.size()), 0.0};
  double sum = 0.0;
  for (const double score : z) sum += std::exp(score - highest);
  row.tau = highest + std::log(sum);
  for (size_t j = 0; j < z.size(); ++j) row.p[j] = std::exp(z[j] - row.tau);
  return row;
}

/// x log x, 0 at 0.
double x_log_x(double x) { return x > 0.0 ? x * std::log(x) : 0.0; }

size_t pair_of(const Attention& a, int64_t i, int64_t j) {
  return static_cast<size_t>(i * a.m + j);
}

double keep_of(const Attention& a, int64_t i, int64_t j) {
  return a.keep.empty() ? 1.0 : a.keep[pair_of(a, i, j)];
}

/// Row i of problem e, and what becomes of its weights.
class EntmaxQuery {
 public:
  EntmaxQuery(const EntmaxAttention& e, int64_t i) : e_(e), i_(i), z_(static_cast<size_t>(m())) {
    const Attention& a = e.attention;
    for (int64_t j = 0; j < m(); ++j) {
      const bool counts = a.weight[pair_of(a, i, j)] != 0.0;
      z_[static_cast<size_t>(j)] = counts ? e.temperature * a.score(i, j) : -kEndless;
    }
    row = entmax(z_, e.alpha);
  }

  /// sum_j factors_j keep_j v_j
  Doubles mix(const Doubles& factors) const {
    const Attention& a = e_.attention;
    Doubles sum(static_cast<size_t>(a.d));
    for (int64_t j = 0; j < m(); ++j) {
      const double factor = factors[static_cast<size_t>(j)] * keep_of(a, i_, j);
      for (int64_t c = 0; c < a.d; ++c)
        sum[static_cast<size_t>(c)] += factor * a.v[static_cast<size_t>(j * a.d + c)];
    }
    return sum;
  }

  /// dL/dp of dL/do.
  Doubles dweights(std::span<const double> dout) const {
    const Attention& a = e_.attention;
    Doubles dp(static_cast<size_t>(m()));
    for (int64_t j = 0; j < m(); ++j) {
      double sum = 0.0;
      for (int64_t c = 0; c < a.d; ++c)
        sum += dout[static_cast<size_t>(i_ * a.d + c)] * a.v[static_cast<size_t>(j * a.d + c)];
      dp[static_cast<size_t>(j)] = sum * keep_of(a, i_, j);
    }
    return dp;
  }

  double score(size_t j) const { return z_[j]; }

  EntmaxRow row;

 private:
  int64_t m() const { return e_.attention.m; }

  const EntmaxAttention& e_;
  int64_t i_;
  Doubles z_;
};

}  // namespace

EntmaxRow entmax(std::span<const double> z, double alpha) {
  const double highest = z.empty() ? -kEndless : *std::max_element(z.begin(), z.end());
  if (highest == -kEndless) return {Doubles(z.size()), kEndless};
  if (alpha == kSoftmaxAlpha) return softmax_row(z, highest);
  Doubles x;  // below the highest, so that large scores cost no digits
  for (const double score : z) x.push_back((alpha - 1) * (score - highest));
  const double power = 1 / (alpha - 1);
  double low = -1.0, high = 0.0;
  for (double middle = -0.5; low < middle && middle < high; middle = low + (high - low) / 2)
    (mass_above(x, middle, power) >= 1.0 ? low : high) = middle;
  EntmaxRow row{Doubles(z.size()), low + (alpha - 1) * highest};
  const double sum = mass_above(x, low, power, &row.p);
  for (double& p : row.p) p /= sum;
  return row;
}

Doubles entmax_slopes(const EntmaxRow& row, double alpha) {
  Doubles u;
  for (const double p : row.p) u.push_back(p > 0.0 ? std::pow(p, 2 - alpha) : 0.0);
  return u;
}

Doubles entmax_backward(const EntmaxRow& row, std::span<const double> dp, double alpha) {
  Doubles dz = entmax_slopes(row, alpha);
  const double sum = std::accumulate(dz.begin(), dz.end(), 0.0);
  const double mean =
      sum == 0.0 ? 0.0 : std::inner_product(dz.begin(), dz.end(), dp.begin(), 0.0) / sum;
  for (size_t j = 0; j < dz.size(); ++j) dz[j] *= dp[j] - mean;
  return dz;
}

double entmax_alpha_gradient(const EntmaxRow& row, std::span<const double> dp, double alpha) {
  const Doubles u = entmax_slopes(row, alpha);
  const double sum = std::accumulate(u.begin(), u.end(), 0.0);
  if (sum == 0.0) return 0.0;
  const bool is_limit = alpha - 1 < kLimitBelow;
  double entropy = 0.0;  // is_limit: sum_k p_k (log p_k)^2
  for (const double p : row.p)
    entropy += is_limit && p > 0.0 ? x_log_x(p) * std::log(p) : x_log_x(p);
  double gradient = 0.0;
  for (size_t j = 0; j < u.size(); ++j) {
    const double p = row.p[j];
    if (p == 0.0) continue;
    const double slope = is_limit ? (p * entropy - x_log_x(p) * std::log(p)) / 2
                                  : (p - u[j] / sum) / ((alpha - 1) * (alpha - 1)) -
                                        (x_log_x(p) - u[j] / sum * entropy) / (alpha - 1);
    gradient += dp[j] * slope;
  }
  return gradient;
}

EntmaxOutput attend_entmax(const EntmaxAttention& e) {
  EntmaxOutput out;
  for (int64_t i = 0; i < e.attention.n; ++i) {
    const EntmaxQuery query(e, i);
    const Doubles u = entmax_slopes(query.row, e.alpha);
    const double sum = std::accumulate(u.begin(), u.end(), 0.0);
    for (const double o : query.mix(query.row.p)) out.o.push_back(o);
    for (const double o : query.mix(u)) out.o2.push_back(sum == 0.0 ? 0.0 : o / sum);
    out.tau.push_back(query.row.tau);
    out.weights.insert(out.weights.end(), query.row.p.begin(), query.row.p.end());
  }
  return out;
}

EntmaxGradients attend_entmax_backward(const EntmaxAttention& e, std::span<const double> dout) {
  const Attention& a = e.attention;
  EntmaxGradients g{.dq = Doubles(a.q.size()),
                    .dk = Doubles(a.k.size()),
                    .dv = Doubles(a.v.size()),
                    .ds = {},
                    .dalpha = {},
                    .dtemperature = {}};
  for (int64_t i = 0; i < a.n; ++i) {
    const EntmaxQuery query(e, i);
    const Doubles dp = query.dweights(dout);
    const Doubles ds = entmax_backward(query.row, dp, e.alpha);
    double dtemperature = 0.0;
    for (int64_t j = 0; j < a.m; ++j) {
      const auto key = static_cast<size_t>(j);
      if (!query.row.has(key)) continue;
      dtemperature += ds[key] * query.score(key) / e.temperature;
      const double of_product = ds[key] * e.temperature * a.scale *
                                (a.score_factor.empty() ? 1.0 : a.score_factor[pair_of(a, i, j)]);
      const double weight = query.row.p[key] * keep_of(a, i, j);
      for (int64_t c = 0; c < a.d; ++c) {
        const auto of_query = static_cast<size_t>(i * a.d + c);
        const auto of_key = static_cast<size_t>(j * a.d + c);
        g.dq[of_query] += of_product * a.k[of_key];
        g.dk[of_key] += of_product * a.q[of_query];
        g.dv[of_key] += weight * dout[of_query];
      }
    }
    g.ds.insert(g.ds.end(), ds.begin(), ds.end());
    g.dalpha.push_back(entmax_alpha_gradient(query.row, dp, e.alpha));
    g.dtemperature.push_back(dtemperature);
  }
  return g;
}

}  // namespace stipple::kernels::reference
