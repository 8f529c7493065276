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
  // Rounding of p takes their sum off 1, which near alpha 1 matters to the gradient of alpha.
  double sum = 0.0;
  for (int64_t j = 0; j < r.length; ++j) sum += double{r.p[j]};
  const bool is_nan = std::isnan(sum);
  std::vector<double> p(static_cast<size_t>(r.length)), dp(r.dp, r.dp + r.length);
  for (size_t j = 0; j < p.size(); ++j) p[j] = sum > 0.0 ? double{r.p[j]} / sum : 0.0;
  const EntmaxGradient gradient = entmax_gradient(p, dp, double{r.alpha});
  for (size_t j = 0; j < p.size(); ++j) {
    r.dz[j] = is_nan ? static_cast<float>(sum) : static_cast<float>(gradient.dz[j]);
  }
  if (r.dalpha != nullptr) *r.dalpha = static_cast<float>(is_nan ? sum : gradient.dalpha);
}

}  // namespace

const EntmaxBodies kEntmax = {entmax_row, entmax_backward_row};

}  // namespace stipple::kernels::cpu::scalar
