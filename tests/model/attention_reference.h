// SPDX-License-Identifier: Apache-2.0
// Masked softmax attention in double, written straight from the formulas, with a fixed graph and
// fixed dropout bits.
#pragma once

#include <cmath>
#include <functional>
#include <vector>

#include "core/rng.h"
#include "tests/model/attention_run.h"

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
  Doubles keep;    // [B * H, N, N]  dropout factor of a normalised weight

  AttentionReference(const AttentionRun& run, const AttentionCase& c, double dropout, int layer)
      : batch(c.batch),
        heads(c.heads),
        length(c.length),
        head_dim(c.head_dim),
        dout(run.dout.values().begin(), run.dout.values().end()),
        weight(static_cast<size_t>(batch * heads * length * length), 1.0),
        keep(weight.size(), 1.0) {
    for_each_pair([&](int64_t p, int64_t i, int64_t j, size_t at) {
      const auto block = static_cast<uint32_t>(j / 4), row = static_cast<uint32_t>(i);
      const PhiloxCounter bits =
          philox4x32({block, row, run.samples[p / heads],
                      stream_word(layer, static_cast<int>(p % heads), Purpose::kAttentionDropout)},
                     run.rng.philox());
      const bool kept = static_cast<double>(bits[static_cast<size_t>(j % 4)]) >=
                        static_cast<double>(static_cast<float>(dropout)) * 0x1.0p32;
      keep[at] = kept ? 1.0 / (1.0 - dropout) : 0.0;
      weight[at] = run.mask[p / heads * length + j];
    });
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

  /// Normalised weights W [B * H, N, N], before dropout; rows without edges are zero.
  Doubles normalised(const Tensors& t) const {
    Doubles w(weight.size(), 0.0), sum(static_cast<size_t>(batch * heads * length), 0.0);
    for_each_pair([&](int64_t p, int64_t i, int64_t j, size_t at) {
      if (weight[at] == 0.0) return;
      w[at] = weight[at] * std::exp(score(t, p, i, j));
      sum[static_cast<size_t>(p * length + i)] += w[at];
    });
    for_each_pair([&](int64_t p, int64_t i, int64_t, size_t at) {
      if (w[at] > 0.0) w[at] /= sum[static_cast<size_t>(p * length + i)];
    });
    return w;
  }

  Doubles output(const Tensors& t) const {
    const Doubles w = normalised(t);
    Doubles o(t.q.size(), 0.0);
    for_each_pair([&](int64_t p, int64_t i, int64_t j, size_t at) {
      for (int64_t d = 0; d < head_dim; ++d)
        o[static_cast<size_t>((p * length + i) * head_dim + d)] +=
            w[at] * keep[at] * t.v[static_cast<size_t>((p * length + j) * head_dim + d)];
    });
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
    const Doubles w = normalised(t), o = output(t);
    Doubles ds(w.size(), 0.0);
    for_each_pair([&](int64_t p, int64_t i, int64_t j, size_t at) {
      const double from_key = keep[at] * dot(dout, p * length + i, t.v, p * length + j);
      const double from_row = dot(dout, p * length + i, o, p * length + i);
      ds[at] = w[at] * (from_key - from_row);
    });
    return ds;
  }
};

/// Central differences of `loss` by every element of `x`, which is put back.
inline Doubles differences(Doubles& x, const std::function<double()>& loss) {
  constexpr double kStep = 1e-5;
  Doubles gradient;
  for (double& element : x) {
    const double at = element;
    element = at + kStep;
    const double up = loss();
    element = at - kStep;
    const double down = loss();
    element = at;
    gradient.push_back((up - down) / (2 * kStep));
  }
  return gradient;
}

/// max |actual - expected| <= tolerance max |expected|.
inline void expect_gradient(std::span<const float> actual, const Doubles& expected,
                            double tolerance, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  double scale = 0, worst = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    scale = std::max(scale, std::abs(expected[i]));
    worst = std::max(worst, std::abs(static_cast<double>(actual[i]) - expected[i]));
  }
  EXPECT_GT(scale, 0.0) << what << ": the test sees no gradient at all";
  EXPECT_LE(worst, tolerance * scale) << what;
}

}  // namespace stipple::test
