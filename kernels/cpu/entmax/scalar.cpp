// SPDX-License-Identifier: Apache-2.0
// Rows of entmax as plain loops: what the vectorised bodies are tested against.
#include "kernels/cpu/entmax/bodies.h"
#include "kernels/cpu/entmax/scalar_solver.h"

namespace stipple::kernels::cpu::scalar {
namespace {

void entmax_row(const EntmaxRow& r, const EntmaxBuffers&) {
  std::vector<float> x(static_cast<size_t>(r.length));
  for (int64_t j = 0; j < r.length; ++j) x[static_cast<size_t>(j)] = (r.alpha - 1.0f) * r.z[j];
  const EntmaxSolution solution = entmax_of(x, double{r.alpha});
  *r.tau = rounded_tau(solution);
  if (r.size != nullptr) {
    *r.size = static_cast<int32_t>(solution.support.size());
    for (size_t e = 0; e < solution.support.size() && *r.size <= r.room; ++e) {
      r.columns[e] = static_cast<uint32_t>(solution.support[e]);
    }
  }
  if (r.p == nullptr) return;
  std::fill(r.p, r.p + r.length, std::isnan(*r.tau) ? *r.tau : 0.0f);
  const double b = 1.0 / (double{r.alpha} - 1.0);
  double sum = 0.0;
  const auto weight = [&](size_t e) { return raise(std::min(double{x[e]} - *r.tau, 1.0), b); };
  for (const size_t e : solution.support) sum += weight(e);
  for (const size_t e : solution.support) r.p[e] = static_cast<float>(weight(e) / sum);
}

void entmax_backward_row(const EntmaxBackwardRow& r, const EntmaxBuffers&) {
  const double alpha = r.alpha;
  const auto u = [&](int64_t j) {
    return r.p[j] > 0.0f ? std::pow(double{r.p[j]}, 2 - alpha) : 0.0;
  };
  double sum_u = 0, sum_u_dp = 0;
  for (int64_t j = 0; j < r.length; ++j) {
    if (r.p[j] == 0.0f) continue;
    sum_u += u(j);
    sum_u_dp += u(j) * r.dp[j];
  }
  const double delta = sum_u > 0 ? sum_u_dp / sum_u : sum_u;
  const bool is_nan = r.length > 0 && std::isnan(r.p[0]);
  for (int64_t j = 0; j < r.length; ++j) {
    r.dz[j] = is_nan           ? r.p[0]
              : r.p[j] == 0.0f ? 0.0f
                               : static_cast<float>(u(j) * (r.dp[j] - delta));
  }
  if (r.dalpha == nullptr) return;
  double sum_log = 0, sum_log_square = 0;
  for (int64_t j = 0; j < r.length; ++j) {
    if (r.p[j] == 0.0f) continue;
    const double log = std::log(double{r.p[j]});
    sum_log += r.p[j] * log;
    sum_log_square += r.p[j] * log * log;
  }
  double total = is_nan ? r.p[0] : 0.0;
  for (int64_t j = 0; j < r.length; ++j) {
    if (!(r.p[j] > 0.0f)) continue;
    const double p = r.p[j], log = std::log(p), share = u(j) / sum_u;
    const double of_alpha =
        alpha - 1 < double{kEntmaxNearOne}
            ? (p * sum_log_square - p * log * log) / 2
            : (p - share) / ((alpha - 1) * (alpha - 1)) - (p * log - share * sum_log) / (alpha - 1);
    total += of_alpha * r.dp[j];
  }
  *r.dalpha = static_cast<float>(total);
}

}  // namespace

const EntmaxBodies kEntmax = {entmax_row, entmax_backward_row};

}  // namespace stipple::kernels::cpu::scalar
