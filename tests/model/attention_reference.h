// SPDX-License-Identifier: Apache-2.0
// The double-precision reference (kernels/attend_reference.h) of a whole batch, with a fixed graph and
// fixed dropout bits.
#pragma once

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "kernels/attend_reference.h"
#include "tests/model/attention_run.h"
#include "tests/model/slope.h"

namespace stipple::test {

using Doubles = std::vector<double>;

inline Doubles to_doubles(std::span<const float> x) { return {x.begin(), x.end()}; }

/// What attention is a function of, in the order of `AttentionReference::loss`.
struct Tensors {
  Doubles q, k, v;
};

struct AttentionReference {
  int64_t batch, heads, length, head_dim;
  Doubles dout;
  Doubles weight;  // [B * H, N, N]  0, or how often the edge counts
  Doubles keep;    // [B * H, N, N]  dropout factor of a normalised weight; empty: 1

  AttentionReference(const AttentionRun& run, const AttentionCase& c, double dropout, int layer)
      : batch(c.batch),
        heads(c.heads),
        length(c.length),
        head_dim(c.head_dim),
        dout(run.dout.values().begin(), run.dout.values().end()) {
    const kernels::AttentionDropout drop{.rate = static_cast<float>(dropout),
                                         .rng = run.rng,
                                         .layer = layer,
                                         .samples = run.samples.view()};
    for (int64_t p = 0; p < batch * heads; ++p) {
      const int64_t b = p / heads;
      for (int64_t i = 0; i < length; ++i) {
        for (int64_t j = 0; j < length; ++j) {
          const bool is_seen = run.mask[b * length + j] != 0 && (!c.is_causal || j <= i);
          weight.push_back(is_seen ? 1 : 0);
        }
      }
      const Doubles own =
          kernels::reference::dropout_factors(drop, b, static_cast<int>(p % heads), length, length);
      keep.insert(keep.end(), own.begin(), own.end());
    }
  }

  void for_each_pair(const std::function<void(int64_t, int64_t, int64_t, size_t)>& body) const {
    for (int64_t p = 0; p < batch * heads; ++p)
      for (int64_t i = 0; i < length; ++i)
        for (int64_t j = 0; j < length; ++j)
          body(p, i, j, static_cast<size_t>((p * length + i) * length + j));
  }

  double dot(const Doubles& a, int64_t row_a, const Doubles& b, int64_t row_b) const {
    double sum = 0;
    for (int64_t d = 0; d < head_dim; ++d)
      sum += a[static_cast<size_t>(row_a * head_dim + d)] *
             b[static_cast<size_t>(row_b * head_dim + d)];
    return sum;
  }
  double score(const Tensors& t, int64_t p, int64_t i, int64_t j) const {
    return dot(t.q, p * length + i, t.k, p * length + j) / std::sqrt(static_cast<double>(head_dim));
  }

  kernels::reference::Attention problem(const Tensors& t, int64_t p) const {
    const auto part = [p](const Doubles& all, int64_t count) {
      if (all.empty()) return Doubles{};
      return Doubles(all.begin() + p * count, all.begin() + (p + 1) * count);
    };
    return {.n = length,
            .m = length,
            .d = head_dim,
            .scale = 1.0 / std::sqrt(static_cast<double>(head_dim)),
            .q = part(t.q, length * head_dim),
            .k = part(t.k, length * head_dim),
            .v = part(t.v, length * head_dim),
            .weight = part(weight, length * length),
            .keep = part(keep, length * length)};
  }

  Doubles output(const Tensors& t) const {
    Doubles o;
    for (int64_t p = 0; p < batch * heads; ++p) {
      const Doubles own = kernels::reference::attend(problem(t, p)).o;
      o.insert(o.end(), own.begin(), own.end());
    }
    return o;
  }

  double loss(const Tensors& t) const {
    const Doubles o = output(t);
    double sum = 0;
    for (size_t i = 0; i < o.size(); ++i) sum += o[i] * dout[i];
    return sum;
  }

  /// dL/ds [B * H, N, N].
  Doubles score_gradient(const Tensors& t) const {
    Doubles ds;
    for (int64_t p = 0; p < batch * heads; ++p) {
      const kernels::reference::Attention a = problem(t, p);
      const kernels::reference::Output out = kernels::reference::attend(a);
      const auto first = dout.begin() + p * length * head_dim;
      const Doubles own_dout(first, first + length * head_dim);
      const Doubles own = kernels::reference::attend_backward(
                              a, own_dout, out.lse, kernels::reference::delta(a, own_dout, out.o))
                              .ds;
      ds.insert(ds.end(), own.begin(), own.end());
    }
    return ds;
  }
};

/// Central differences of `loss` by elements of `x` that are slopes_apart(), which are put back;
/// NaN by others.
inline Doubles differences(Doubles& x, const std::function<double()>& loss) {
  constexpr double kStep = 1e-5;
  Doubles gradient(x.size(), std::numeric_limits<double>::quiet_NaN());
  for (size_t i = 0; i < x.size(); i += slopes_apart(x.size())) {
    double& element = x[i];
    const double at = element;
    element = at + kStep;
    const double up = loss();
    element = at - kStep;
    const double down = loss();
    element = at;
    gradient[i] = (up - down) / (2 * kStep);
  }
  return gradient;
}

/// max |actual - expected| <= tolerance max |expected|, where a gradient was asked for.
inline void expect_gradient(std::span<const float> actual, const Doubles& expected,
                            double tolerance, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  double scale = 0, worst = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (i % slopes_apart(expected.size()) != 0 && std::isnan(expected[i])) continue;
    scale = std::max(scale, std::abs(expected[i]));
    worst = std::max(worst, std::abs(static_cast<double>(actual[i]) - expected[i]));
  }
  EXPECT_GT(scale, 0.0) << what << ": the test sees no gradient at all";
  EXPECT_LE(worst, tolerance * scale) << what;
}

}  // namespace stipple::test
