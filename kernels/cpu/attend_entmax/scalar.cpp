// SPDX-License-Identifier: Apache-2.0
// Entmax attention as plain loops over pairs: the definition that the vectorised bodies are tested
// against.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu/attend/scalar_pairs.h"
#include "kernels/cpu/attend_entmax/bodies.h"
#include "kernels/cpu/entmax/scalar_solver.h"

namespace stipple::kernels::cpu::scalar {
namespace {

/// Pairs of a row, keys ascending.
struct EntmaxPairs {
  std::vector<uint32_t> columns;
  std::vector<float> x;
};

EntmaxPairs pairs_of_row(const EntmaxProblem& p, int64_t i) {
  EntmaxPairs pairs;
  for_each_edge(p, i, [&](int64_t j, float, int64_t) {
    if (!counts(p, j)) return;
    pairs.columns.push_back(static_cast<uint32_t>(j));
    pairs.x.push_back(score(p, i, j));
  });
  return pairs;
}

float entmax_drop(const EntmaxProblem& p, int64_t i, int64_t j) {
  if (!p.dropout.on) return 1.0f;
  return keeps(p.dropout, i, j) ? p.dropout.rescale : 0.0f;
}

/// P and u of a row's pairs.
struct EntmaxWeights {
  std::vector<double> p, u;
};

EntmaxWeights entmax_weights(const EntmaxPairs& pairs, double tau, double alpha) {
  EntmaxWeights w;
  double sum = 0.0;
  for (const float x : pairs.x) {
    w.p.push_back(raise(std::min(double{x} - tau, 1.0), 1.0 / (alpha - 1.0)));
    sum += w.p.back();
  }
  for (double& p : w.p) {
    p /= sum;
    w.u.push_back(p > 0.0 ? std::pow(p, 2.0 - alpha) : 0.0);
  }
  return w;
}

void forward_entmax_row(const EntmaxProblem& p, int64_t i) {
  float* o = p.o + i * p.dim;
  float* o2 = p.o2 == nullptr ? nullptr : p.o2 + i * p.dim;
  const EntmaxPairs all = pairs_of_row(p, i);
  const EntmaxSolution solution = entmax_of(all.x, double{p.alpha});
  p.tau[i] = rounded_tau(solution);
  const float nothing = std::isnan(p.tau[i]) ? p.tau[i] : 0.0f;
  std::fill(o, o + p.dim, nothing);
  if (o2 != nullptr) std::fill(o2, o2 + p.dim, nothing);
  EntmaxPairs own;
  for (const size_t e : solution.support) {
    own.columns.push_back(all.columns[e]);
    own.x.push_back(all.x[e]);
  }
  const auto size = static_cast<int64_t>(own.x.size());
  if (p.size != nullptr) {
    p.size[i] = static_cast<int32_t>(size);
    if (size <= p.room) std::copy(own.columns.begin(), own.columns.end(), p.support + i * p.room);
  }
  const EntmaxWeights w = entmax_weights(own, double{p.tau[i]}, double{p.alpha});
  double sum_u = 0.0;
  for (const double u : w.u) sum_u += u;
  for (size_t e = 0; e < own.x.size(); ++e) {
    const float drop = entmax_drop(p, i, own.columns[e]);
    const float* v = p.v + own.columns[e] * p.dim;
    add_scaled(o, drop * static_cast<float>(w.p[e]), v, p.dim);
    if (o2 != nullptr) add_scaled(o2, drop * static_cast<float>(w.u[e] / sum_u), v, p.dim);
  }
}

void forward_entmax(const EntmaxProblem& p, const EntmaxScoreBuffers&, int64_t first_row,
                    int64_t last_row) {
  for (int64_t i = first_row; i < last_row; ++i) forward_entmax_row(p, i);
}

/// The support as forward left it, or those pairs above tau.
EntmaxPairs support_of_row(const EntmaxProblem& p, int64_t i) {
  EntmaxPairs own;
  if (p.final_size[i] <= p.room) {
    const uint32_t* columns = p.final_support + i * p.room;
    own.columns.assign(columns, columns + p.final_size[i]);
    for (const uint32_t j : own.columns) own.x.push_back(score(p, i, j));
    return own;
  }
  const EntmaxPairs all = pairs_of_row(p, i);
  for (size_t e = 0; e < all.x.size(); ++e) {
    if (!(all.x[e] > p.final_tau[i])) continue;
    own.columns.push_back(all.columns[e]);
    own.x.push_back(all.x[e]);
  }
  return own;
}

void backward_entmax_row(const EntmaxProblem& p, const BackwardPart& part, int64_t i) {
  const float* dout = p.dout + i * p.dim;
  if (std::isnan(p.final_tau[i])) {
    if (!part.by_query) return;
    std::fill_n(p.dq + i * p.dim, p.dim, p.final_tau[i]);
    if (p.dalpha != nullptr) p.dalpha[i] = p.final_tau[i];
    if (p.dtemperature != nullptr) p.dtemperature[i] = p.final_tau[i];
    return;
  }
  const EntmaxPairs own = support_of_row(p, i);
  const EntmaxWeights w = entmax_weights(own, double{p.final_tau[i]}, double{p.alpha});
  const double delta = dot(dout, p.final_o2 + i * p.dim, p.dim);
  const float best = own.x.empty() ? 0.0f : *std::max_element(own.x.begin(), own.x.end());
  std::vector<double> dp(own.x.size());
  double dtemperature = 0.0;
  for (size_t e = 0; e < own.x.size(); ++e) {
    const int64_t j = own.columns[e];
    const float drop = entmax_drop(p, i, j);
    dp[e] = drop * dot(dout, p.v + j * p.dim, p.dim);
    const auto ds = static_cast<float>(w.u[e] * (dp[e] - delta));
    dtemperature += double{ds} * (double{own.x[e]} - double{best});
    if (part.by_query) add_scaled(p.dq + i * p.dim, p.gradient_scale * ds, p.k + j * p.dim, p.dim);
    if (!part.by_key || j < part.keys.begin || j >= part.keys.end) continue;
    add_scaled(p.dk + j * p.dim, p.gradient_scale * ds, p.q + i * p.dim, p.dim);
    add_scaled(p.dv + j * p.dim, drop * static_cast<float>(w.p[e]), dout, p.dim);
  }
  if (!part.by_query) return;
  if (p.dtemperature != nullptr) {
    p.dtemperature[i] =
        static_cast<float>(dtemperature / (double{p.alpha} - 1.0) / double{p.temperature});
  }
  if (p.dalpha != nullptr) {
    p.dalpha[i] = static_cast<float>(entmax_gradient(w.p, dp, double{p.alpha}).dalpha);
  }
}

void backward_entmax(const EntmaxProblem& p, const EntmaxBackwardBuffers&,
                     const BackwardPart& part) {
  const auto clear = [&](float* gradient, Range rows) {
    std::fill(gradient + rows.begin * p.dim, gradient + rows.end * p.dim, 0.0f);
  };
  if (part.by_query) clear(p.dq, part.queries);
  if (part.by_key) {
    clear(p.dk, part.keys);
    clear(p.dv, part.keys);
  }
  for (int64_t i = part.queries.begin; i < part.queries.end; ++i) backward_entmax_row(p, part, i);
}

}  // namespace

const AttendEntmaxBodies kAttendEntmax = {forward_entmax, backward_entmax};

}  // namespace stipple::kernels::cpu::scalar
