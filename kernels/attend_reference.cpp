// SPDX-License-Identifier: Apache-2.0
#include "kernels/attend_reference.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/math/pattern.h"

namespace stipple::kernels::reference {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

size_t at(int64_t row, int64_t columns, int64_t column) {
  return static_cast<size_t>(row * columns + column);
}

double dot(std::span<const double> a, int64_t i, std::span<const double> b, int64_t j, int64_t d) {
  double sum = 0.0;
  for (int64_t x = 0; x < d; ++x) sum += a[at(i, d, x)] * b[at(j, d, x)];
  return sum;
}

void add_scaled(Doubles& to, int64_t i, double factor, std::span<const double> from, int64_t j,
                int64_t d) {
  for (int64_t x = 0; x < d; ++x) to[at(i, d, x)] += factor * from[at(j, d, x)];
}

double or_one(const Doubles& factors, size_t pair) { return factors.empty() ? 1.0 : factors[pair]; }

/// The row's lse.
double normalise(const Attention& a, int64_t i) {
  double highest = -kInfinity;
  for (int64_t j = 0; j < a.m; ++j) {
    if (a.weight[at(i, a.m, j)] != 0.0) highest = std::max(highest, a.score(i, j));
  }
  double sum = 0.0;
  for (int64_t j = 0; j < a.m; ++j) {
    const double weight = a.weight[at(i, a.m, j)];
    if (weight != 0.0) sum += weight * std::exp(a.score(i, j) - highest);
  }
  return sum == 0.0 ? -kInfinity : highest + std::log(sum);
}

}  // namespace

double Attention::score(int64_t i, int64_t j) const {
  return scale * dot(q, i, k, j, d) * or_one(score_factor, at(i, m, j));
}

Output attend(const Attention& a) {
  Output out{Doubles(static_cast<size_t>(a.n * a.d)), Doubles(static_cast<size_t>(a.n)),
             Doubles(static_cast<size_t>(a.n * a.m))};
  for (int64_t i = 0; i < a.n; ++i) {
    const double lse = normalise(a, i);
    out.lse[static_cast<size_t>(i)] = lse;
    for (int64_t j = 0; j < a.m; ++j) {
      const size_t pair = at(i, a.m, j);
      if (a.weight[pair] == 0.0) continue;
      out.weights[pair] = a.weight[pair] * std::exp(a.score(i, j) - lse);
      add_scaled(out.o, i, out.weights[pair] * or_one(a.keep, pair), a.v, j, a.d);
    }
  }
  return out;
}

Gradients attend_backward(const Attention& a, std::span<const double> dout,
                          std::span<const double> lse, std::span<const double> delta) {
  Gradients g{Doubles(a.q.size()), Doubles(a.k.size()), Doubles(a.v.size()),
              Doubles(a.weight.size())};
  for (int64_t i = 0; i < a.n; ++i) {
    for (int64_t j = 0; j < a.m; ++j) {
      const size_t pair = at(i, a.m, j);
      if (a.weight[pair] == 0.0) continue;
      const auto row = static_cast<size_t>(i);
      const double weight = a.weight[pair] * std::exp(a.score(i, j) - lse[row]);
      const double keep = or_one(a.keep, pair);
      const double ds = weight * (keep * dot(dout, i, a.v, j, a.d) - delta[row]);
      const double dproduct = ds * a.scale * or_one(a.score_factor, pair);
      g.ds[pair] = ds;
      add_scaled(g.dq, i, dproduct, a.k, j, a.d);
      add_scaled(g.dk, j, dproduct, a.q, i, a.d);
      add_scaled(g.dv, j, weight * keep, dout, i, a.d);
    }
  }
  return g;
}

Doubles delta(const Attention& a, std::span<const double> dout, std::span<const double> o) {
  Doubles result;
  for (int64_t i = 0; i < a.n; ++i) result.push_back(dot(dout, i, o, i, a.d));
  return result;
}

Doubles pairs_of(const Pattern& pattern, int64_t p, int64_t n, int64_t m) {
  const math::PatternRule rule = math::pattern_rule(pattern);
  Doubles pairs;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < m; ++j) pairs.push_back(rule.has(p, i, j) ? 1.0 : 0.0);
  }
  return pairs;
}

Doubles pairs_of(const EdgeSet& edges, int64_t p) {
  Doubles pairs(static_cast<size_t>(edges.num_queries * edges.num_keys));
  for (int64_t i = 0; i < edges.num_queries; ++i) {
    double* row = &pairs[at(i, edges.num_keys, 0)];
    if (edges.form[p] == EdgeForm::kBits) {
      for (int64_t j = 0; j < edges.num_keys; ++j) row[j] = edges.has_bit(p, i, j) ? 1.0 : 0.0;
      continue;
    }
    for (int32_t e = edges.row_ptr.at(p)[i]; e < edges.row_ptr.at(p)[i + 1]; ++e) {
      row[edges.columns(p)[e]] = edges.capacity.multiplicity ? edges.multiplicity.at(p)[e] : 1.0;
    }
  }
  return pairs;
}

void exclude_masked_keys(Attention& a, View<const uint8_t> key_mask) {
  if (key_mask.empty()) return;
  for (int64_t i = 0; i < a.n; ++i) {
    for (int64_t j = 0; j < a.m; ++j) {
      if (key_mask[j] == 0) a.weight[at(i, a.m, j)] = 0.0;
    }
  }
}

Doubles dropout_factors(const AttentionDropout& dropout, int64_t b, int head, int64_t n,
                        int64_t m) {
  if (dropout.rate == 0.0f) return {};
  const PhiloxKey key = dropout.rng.philox();
  const uint32_t stream =
      stream_word(dropout.layer, dropout.first_head + head, Purpose::kAttentionDropout);
  const double rate = double{dropout.rate};
  Doubles factors;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < m; ++j) {
      const PhiloxCounter words = philox4x32(
          {static_cast<uint32_t>(j / 4), static_cast<uint32_t>(i), dropout.samples[b], stream},
          key);
      const bool kept = words[static_cast<size_t>(j % 4)] >= rate * 0x1p32;
      factors.push_back(kept ? 1.0 / (1.0 - rate) : 0.0);
    }
  }
  return factors;
}

}  // namespace stipple::kernels::reference
