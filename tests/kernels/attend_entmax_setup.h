// SPDX-License-Identifier: Apache-2.0
// Entmax attention in double precision, straight from its definition, and calls of the real
// operations on the same numbers.
#pragma once

#include <cmath>
#include <optional>
#include <vector>

#include "kernels/attend_entmax.h"
#include "tests/kernels/attend_reference.h"
#include "tests/kernels/entmax_reference.h"

namespace stipple::test {

inline constexpr EdgeForm kForms[] = {EdgeForm::kBits, EdgeForm::kCsr};

struct EntmaxSetup : AttendSetup {
  Array<float> alpha;        // [H]
  Array<float> temperature;  // [H]  or not given
};

inline EntmaxSetup make_entmax_setup(const AttendSize& size, float alpha, uint64_t seed) {
  EntmaxSetup s;
  static_cast<AttendSetup&>(s) = make_setup(size, seed);
  s.alpha = Array<float>({size.heads});
  s.alpha.fill(alpha);
  return s;
}

// --- the definition ------------------------------------------------------------------------------

struct EntmaxForward {
  Array<double> o, o2;  // [B, H, N, D]
  Array<double> x, p;   // [B * H, N, M]  p: before dropout; x: -infinity where there is no pair
};

inline double temperature_of(const EntmaxSetup& s, int64_t p) {
  return s.temperature.view().empty() ? 1.0 : double{s.temperature[p % s.heads]};
}

/// u = p^(2 - alpha) on the support.
inline double slope_of(double p, double alpha) { return p > 0 ? std::pow(p, 2 - alpha) : 0.0; }

/// sum_j weight_j keep_j v_j.
inline void add_values(const kernels::reference::Attention& a, int64_t i,
                       const std::vector<double>& weights, double* out) {
  for (int64_t j = 0; j < a.m; ++j) {
    const auto pair = static_cast<size_t>(i * a.m + j);
    const double kept = weights[static_cast<size_t>(j)] * (a.keep.empty() ? 1.0 : a.keep[pair]);
    for (int64_t x = 0; x < a.d; ++x) out[x] += kept * a.v[static_cast<size_t>(j * a.d + x)];
  }
}

inline EntmaxForward entmax_reference_forward(const EntmaxSetup& s) {
  const Shape pairs = {s.problems(), s.n, s.m};
  EntmaxForward out{Array<double>(s.q.shape()), Array<double>(s.q.shape()), Array<double>(pairs),
                    Array<double>(pairs)};
  for (int64_t p = 0; p < s.problems(); ++p) {
    const kernels::reference::Attention a = reference(s, p);
    const double alpha = s.alpha[p % s.heads];
    for (int64_t i = 0; i < s.n; ++i) {
      const int64_t row = p * s.n + i;
      std::vector<double> z(static_cast<size_t>(s.m), -std::numeric_limits<double>::infinity());
      for (int64_t j = 0; j < s.m; ++j) {
        if (a.weight[static_cast<size_t>(i * s.m + j)] == 0) continue;
        z[static_cast<size_t>(j)] = temperature_of(s, p) * a.score(i, j);
      }
      const std::vector<double> weights = entmax_by_definition(z, alpha);
      std::vector<double> shares(weights.size());
      double sum = 0.0;
      for (const double weight : weights) sum += slope_of(weight, alpha);
      for (size_t j = 0; j < weights.size(); ++j) {
        out.x[row * s.m + static_cast<int64_t>(j)] = (alpha - 1) * z[j];
        out.p[row * s.m + static_cast<int64_t>(j)] = weights[j];
        shares[j] = sum > 0 ? slope_of(weights[j], alpha) / sum : 0.0;
      }
      add_values(a, i, weights, &out.o[row * s.d]);
      add_values(a, i, shares, &out.o2[row * s.d]);
    }
  }
  return out;
}

template <class T>
struct EntmaxGradients {
  Array<T> dq, dk, dv;
  Array<T> dalpha, dtemperature;  // [B, H, N]
};

template <class T>
EntmaxGradients<T> make_entmax_gradients(const EntmaxSetup& s) {
  const Shape rows = {s.batch, s.heads, s.n};
  return {Array<T>(s.q.shape()), Array<T>(s.k.shape()), Array<T>(s.k.shape()), Array<T>(rows),
          Array<T>(rows)};
}

/// dL/dalpha of a row from p and dp (kernels/entmax.h).
inline double alpha_gradient_of(const std::vector<double>& p, const std::vector<double>& dp,
                                double alpha) {
  double sum_u = 0.0, sum_log = 0.0, total = 0.0;
  for (const double weight : p) {
    sum_u += slope_of(weight, alpha);
    sum_log += weight > 0 ? weight * std::log(weight) : 0.0;
  }
  for (size_t j = 0; j < p.size(); ++j) {
    if (p[j] == 0) continue;
    const double share = slope_of(p[j], alpha) / sum_u;
    total += dp[j] * ((p[j] - share) / (alpha - 1) / (alpha - 1) -
                      (p[j] * std::log(p[j]) - share * sum_log) / (alpha - 1));
  }
  return total;
}

inline EntmaxGradients<double> entmax_reference_backward(const EntmaxSetup& s,
                                                         const EntmaxForward& forward) {
  EntmaxGradients<double> g = make_entmax_gradients<double>(s);
  for (int64_t p = 0; p < s.problems(); ++p) {
    const kernels::reference::Attention a = reference(s, p);
    const double alpha = s.alpha[p % s.heads];
    const double scale = temperature_of(s, p) * double{s.scale};
    for (int64_t i = 0; i < s.n; ++i) {
      const int64_t row = p * s.n + i;
      const float* dout = &s.dout[row * s.d];
      double delta = 0.0;
      for (int64_t x = 0; x < s.d; ++x) delta += double{dout[x]} * forward.o2[row * s.d + x];
      std::vector<double> weights(static_cast<size_t>(s.m)), dp(static_cast<size_t>(s.m));
      for (int64_t j = 0; j < s.m; ++j) {
        const auto pair = static_cast<size_t>(i * s.m + j);
        const double weight = weights[static_cast<size_t>(j)] = forward.p[row * s.m + j];
        if (weight == 0) continue;
        const double keep = a.keep.empty() ? 1.0 : a.keep[pair];
        double& gradient = dp[static_cast<size_t>(j)];
        for (int64_t x = 0; x < s.d; ++x) {
          gradient += keep * double{dout[x]} * a.v[static_cast<size_t>(j * s.d + x)];
        }
        const double ds = slope_of(weight, alpha) * (gradient - delta);
        g.dtemperature[row] += ds * a.score(i, j);
        const int64_t key = (p * s.m + j) * s.d;
        for (int64_t x = 0; x < s.d; ++x) {
          g.dq[row * s.d + x] += scale * ds * a.k[static_cast<size_t>(j * s.d + x)];
          g.dk[key + x] += scale * ds * a.q[static_cast<size_t>(i * s.d + x)];
          g.dv[key + x] += keep * weight * double{dout[x]};
        }
      }
      g.dalpha[row] = alpha_gradient_of(weights, dp, alpha);
    }
  }
  return g;
}

// --- the operations ------------------------------------------------------------------------------

struct EntmaxAttended {
  Array<float> o, o2, tau;
  Array<int32_t> size;
  Array<uint32_t> columns;
};

/// With edges in a form, or, without one, by the pattern of the setup.
inline EntmaxAttended attend_entmax(const EntmaxSetup& s, std::optional<EdgeForm> form = {},
                                    const AttendPlace& place = {}) {
  AttendMemory memory(s, place);
  const RealView o = memory.room(s.q.shape());
  const RealView o2 = memory.room(s.q.shape());
  const View<float> tau = memory.room_for_lse();
  const kernels::EntmaxSupport support = {
      .size = memory.fresh<int32_t>({s.batch, s.heads, s.n}),
      .columns = memory.fresh<uint32_t>({s.batch, s.heads, s.n, kernels::kEntmaxRoom})};
  kernels::AttendEntmax a = {.o = o,
                             .o2 = o2,
                             .tau = tau,
                             .support = support,
                             .q = memory.store(s.q),
                             .k = memory.store(s.k),
                             .v = memory.store(s.v),
                             .heads = {.alpha = memory.put(s.alpha)},
                             .key_mask = memory.key_mask(),
                             .pattern = memory.pattern(),
                             .scale = s.scale,
                             .dropout = memory.dropout(),
                             .scratch = &memory.scratch()};
  if (!s.temperature.view().empty()) a.heads.temperature = memory.put(s.temperature);
  if (form) a.edges = memory.edges(*form);
  kernels::attend_entmax(memory.stream(), a);
  return {memory.get(ConstRealView(o)), memory.get(ConstRealView(o2)), memory.get(tau),
          memory.get(support.size), memory.get(support.columns)};
}

inline EntmaxGradients<float> differentiate_entmax(const EntmaxSetup& s,
                                                   const EntmaxAttended& forward,
                                                   std::optional<EdgeForm> form,
                                                   const AttendPlace& place = {}) {
  AttendMemory memory(s, place);
  const RealView dq = memory.room(s.q.shape());
  const RealView dk = memory.room(s.k.shape());
  const RealView dv = memory.room(s.k.shape());
  const View<float> dalpha = memory.room_for_lse();
  const View<float> dtemperature = memory.room_for_lse();
  kernels::AttendEntmaxBackward a = {
      .dq = dq,
      .dk = dk,
      .dv = dv,
      .dalpha = dalpha,
      .dtemperature = dtemperature,
      .q = memory.store(s.q),
      .k = memory.store(s.k),
      .v = memory.store(s.v),
      .o2 = memory.store(forward.o2),
      .dout = memory.store(s.dout),
      .tau = memory.put(forward.tau),
      .support = {.size = memory.put(forward.size), .columns = memory.put(forward.columns)},
      .heads = {.alpha = memory.put(s.alpha)},
      .key_mask = memory.key_mask(),
      .pattern = memory.pattern(),
      .scale = s.scale,
      .dropout = memory.dropout(),
      .scratch = &memory.scratch()};
  if (!s.temperature.view().empty()) a.heads.temperature = memory.put(s.temperature);
  if (form) a.edges = memory.edges(*form);
  kernels::attend_entmax_backward(memory.stream(), a);
  return {memory.get(ConstRealView(dq)), memory.get(ConstRealView(dk)),
          memory.get(ConstRealView(dv)), memory.get(dalpha), memory.get(dtemperature)};
}

class AttendEntmax : public AttendTest {};
INSTANTIATE_TEST_SUITE_P(Place, AttendEntmax, ::testing::ValuesIn(cpu_params()), name_of_param);

}  // namespace stipple::test
