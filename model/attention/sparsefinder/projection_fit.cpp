// SPDX-License-Identifier: Apache-2.0
#include "model/attention/sparsefinder/projection_fit.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/rng.h"
#include "kernels/math/mips.h"

namespace stipple::model {
namespace {

using Doubles = std::vector<double>;

/// x [N, D] W [D, R]
template <class T>
Doubles product(std::span<const T> x, std::span<const double> w, int64_t d, int64_t r) {
  const int64_t n = static_cast<int64_t>(x.size()) / d;
  Doubles y(static_cast<size_t>(n * r));
  for (int64_t i = 0; i < n; ++i) {
    double* row = y.data() + i * r;
    for (int64_t c = 0; c < d; ++c) {
      const auto value = static_cast<double>(x[static_cast<size_t>(i * d + c)]);
      const double* of_channel = w.data() + c * r;
      for (int64_t e = 0; e < r; ++e) row[e] += value * of_channel[e];
    }
  }
  return y;
}

/// dw [D, R] += xᵀ dy
template <class T>
void add_weight_gradient(std::span<const T> x, const Doubles& dy, int64_t d, int64_t r,
                         std::span<double> dw) {
  const int64_t n = static_cast<int64_t>(x.size()) / d;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t c = 0; c < d; ++c) {
      const auto value = static_cast<double>(x[static_cast<size_t>(i * d + c)]);
      for (int64_t e = 0; e < r; ++e)
        dw[static_cast<size_t>(c * r + e)] += value * dy[static_cast<size_t>(i * r + e)];
    }
  }
}

/// The parts of a map with a hidden layer.
template <class T>
struct Layers {
  std::span<T> first, bias, second;
  Layers(std::span<T> map, const ProjectionShape& shape)
      : first(map.first(static_cast<size_t>(shape.d * shape.hidden))),
        bias(map.subspan(first.size(), static_cast<size_t>(shape.hidden))),
        second(map.subspan(first.size() + bias.size())) {}
};

/// tanh(x W_1 + b) [N, F]
Doubles hidden_of(std::span<const float> x, std::span<const double> map,
                  const ProjectionShape& shape) {
  const Layers layers(map, shape);
  Doubles h = product(x, layers.first, shape.d, shape.hidden);
  for (size_t e = 0; e < h.size(); ++e)
    h[e] = std::tanh(h[e] + layers.bias[e % static_cast<size_t>(shape.hidden)]);
  return h;
}

Doubles projected(std::span<const float> x, std::span<const double> map,
                  const ProjectionShape& shape) {
  if (shape.hidden == 0) return product(x, map, shape.d, shape.r);
  const Doubles h = hidden_of(x, map, shape);
  return product(std::span<const double>(h), Layers(map, shape).second, shape.hidden, shape.r);
}

/// dmap += , from dy [N, R] of projected().
void add_map_gradient(std::span<const float> x, std::span<const double> map, const Doubles& dy,
                      const ProjectionShape& shape, std::span<double> dmap) {
  if (shape.hidden == 0) return add_weight_gradient(x, dy, shape.d, shape.r, dmap);
  const Layers layers(map, shape);
  const Layers gradients(dmap, shape);
  const Doubles h = hidden_of(x, map, shape);
  add_weight_gradient(std::span<const double>(h), dy, shape.hidden, shape.r, gradients.second);
  const auto f = static_cast<size_t>(shape.hidden), r = static_cast<size_t>(shape.r);
  Doubles dh(h.size());  // of what stands under the tangent
  for (size_t e = 0; e < h.size(); ++e) {
    for (size_t c = 0; c < r; ++c) dh[e] += dy[e / f * r + c] * layers.second[e % f * r + c];
    dh[e] *= 1 - h[e] * h[e];
    gradients.bias[e % f] += dh[e];
  }
  add_weight_gradient(x, dh, shape.d, shape.hidden, gradients.first);
}

/// Queries and keys where they are compared, and gradients by them.
struct Compared {
  int64_t r;
  Doubles q, k, dq, dk;

  double distance(int64_t i, int64_t j) const {
    double sum = 0;
    for (int64_t e = 0; e < r; ++e) {
      const double difference =
          q[static_cast<size_t>(i * r + e)] - k[static_cast<size_t>(j * r + e)];
      sum += difference * difference;
    }
    return sum;
  }
  /// Of weight |q_i - k_j|^2.
  void add_gradient(int64_t i, int64_t j, double weight) {
    for (int64_t e = 0; e < r; ++e) {
      const auto a = static_cast<size_t>(i * r + e), b = static_cast<size_t>(j * r + e);
      const double slope = 2 * weight * (q[a] - k[b]);
      dq[a] += slope;
      dk[b] -= slope;
    }
  }
};

template <class Visit>
void for_each_edge(const kernels::EdgeList& edges, int64_t i, const Visit& visit) {
  const auto row = static_cast<size_t>(i);
  for (int64_t e = edges.row_ptr[row]; e < edges.row_ptr[row + 1]; ++e)
    visit(int64_t{edges.columns[static_cast<size_t>(e)]});
}

int64_t degree(const kernels::EdgeList& edges, int64_t i) {
  return edges.row_ptr[static_cast<size_t>(i) + 1] - edges.row_ptr[static_cast<size_t>(i)];
}

/// Draws of one query: bits that no other query has.
class Draws {
 public:
  Draws(uint64_t seed, int64_t query)
      : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
        query_(static_cast<uint32_t>(query)) {}
  /// Uniform among 0 .. count - 1.
  size_t below(size_t count) {
    const PhiloxCounter bits = philox4x32({next_++, query_, 0, 0}, key_);
    const auto at =
        static_cast<size_t>(to_unit_double(bits[0], bits[1]) * static_cast<double>(count));
    return std::min(at, count - 1);
  }

 private:
  PhiloxKey key_;
  uint32_t query_;
  uint32_t next_ = 0;
};

class Adam {
 public:
  explicit Adam(size_t numbers) : first_(numbers), second_(numbers) {}
  void step(Doubles& x, const Doubles& gradient, double lr) {
    constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-8;
    ++steps_;
    const double c1 = 1 - std::pow(kBeta1, steps_), c2 = 1 - std::pow(kBeta2, steps_);
    for (size_t e = 0; e < x.size(); ++e) {
      first_[e] = kBeta1 * first_[e] + (1 - kBeta1) * gradient[e];
      second_[e] = kBeta2 * second_[e] + (1 - kBeta2) * gradient[e] * gradient[e];
      x[e] -= lr * first_[e] / c1 / (std::sqrt(second_[e] / c2) + kEpsilon);
    }
  }

 private:
  Doubles first_, second_;
  int steps_ = 0;
};

/// Scales both gradients so that their norm is at most `most`.
void clip(Projection& gradient, double most) {
  double squares = 0;
  for (const Doubles* part : {&gradient.query, &gradient.key})
    for (const double x : *part) squares += x * x;
  const double norm = std::sqrt(squares);
  if (norm <= most) return;
  for (Doubles* part : {&gradient.query, &gradient.key})
    for (double& x : *part) x *= most / norm;
}

Projection zeros_like(const Projection& p) {
  return {.shape = p.shape,
          .is_shared = p.is_shared,
          .query = Doubles(p.query.size()),
          .key = Doubles(p.key.size())};
}

}  // namespace

ProjectionExample with_mips(ProjectionExample example, int64_t d) {
  const auto tokens = static_cast<int64_t>(example.k.size()) / d;
  const auto squares = [&](int64_t j) {
    return kernels::math::squared_length(example.k.data() + j * d, d);
  };
  float largest = 0.0f;
  for (int64_t j = 0; j < tokens; ++j) largest = std::max(largest, squares(j));
  std::vector<float> q, k;
  for (int64_t i = 0; i < tokens; ++i) {
    q.insert(q.end(), example.q.begin() + i * d, example.q.begin() + (i + 1) * d);
    q.push_back(0.0f);
    k.insert(k.end(), example.k.begin() + i * d, example.k.begin() + (i + 1) * d);
    k.push_back(kernels::math::mips_coordinate(largest, squares(i)));
  }
  example.q = std::move(q);
  example.k = std::move(k);
  return example;
}

ProjectionExample joined(ProjectionExample example, int64_t d) {
  std::vector<float> both;
  for (auto q = example.q.begin(), k = example.k.begin(); q != example.q.end(); q += d, k += d) {
    both.insert(both.end(), q, q + d);
    both.insert(both.end(), k, k + d);
  }
  example.q = both;
  example.k = std::move(both);
  return example;
}

kernels::EdgeList draw_others(const kernels::EdgeList& gold, bool is_causal, uint64_t seed) {
  kernels::EdgeList others;
  others.row_ptr = {0};
  const int64_t n = gold.num_queries();
  std::vector<int32_t> candidates;
  for (int64_t i = 0; i < n; ++i) {
    const auto first = gold.columns.begin() + gold.row_ptr[static_cast<size_t>(i)];
    const auto last = gold.columns.begin() + gold.row_ptr[static_cast<size_t>(i) + 1];
    candidates.clear();
    for (int32_t j = 0; j < (is_causal ? i + 1 : n); ++j)
      if (!std::binary_search(first, last, j)) candidates.push_back(j);
    const size_t count = std::min(candidates.size(), static_cast<size_t>(last - first));
    Draws draws(seed, i);
    for (size_t e = 0; e < count; ++e)
      std::swap(candidates[e], candidates[e + draws.below(candidates.size() - e)]);
    candidates.resize(count);
    std::sort(candidates.begin(), candidates.end());
    others.columns.insert(others.columns.end(), candidates.begin(), candidates.end());
    others.row_ptr.push_back(static_cast<int64_t>(others.columns.size()));
  }
  return others;
}

void append_projected(std::span<const float> x, std::span<const double> map,
                      const ProjectionShape& shape, std::vector<float>& rows) {
  for (const double value : projected(x, map, shape)) rows.push_back(static_cast<float>(value));
}

double projection_loss(const ProjectionExample& example, const kernels::EdgeList& others,
                       double margin, const Projection& w, Projection& gradient) {
  const int64_t n = example.gold.num_queries();
  STIPPLE_CHECK(others.num_queries() == n, "projection_loss: others of ", others.num_queries(),
                " queries, gold keys of ", n);
  Compared x{.r = w.shape.r,
             .q = projected(example.q, w.query, w.shape),
             .k = projected(example.k, w.of_keys(), w.shape),
             .dq = {},
             .dk = {}};
  x.dq.resize(x.q.size());
  x.dk.resize(x.k.size());
  const double share = 1.0 / static_cast<double>(n);
  double loss = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (degree(others, i) == 0) continue;
    double hinge = margin;
    for_each_edge(example.gold, i, [&](int64_t j) { hinge += x.distance(i, j); });
    for_each_edge(others, i, [&](int64_t j) { hinge -= x.distance(i, j); });
    if (hinge <= 0) continue;
    loss += share * hinge;
    for_each_edge(example.gold, i, [&](int64_t j) { x.add_gradient(i, j, share); });
    for_each_edge(others, i, [&](int64_t j) { x.add_gradient(i, j, -share); });
  }
  add_map_gradient(example.q, w.query, x.dq, w.shape, gradient.query);
  add_map_gradient(example.k, w.of_keys(), x.dk, w.shape,
                   w.is_shared ? gradient.query : gradient.key);
  return loss;
}

double fit_projection(std::span<const ProjectionExample> examples,
                      const ProjectionFitOptions& options, Projection& w) {
  Adam query(w.query.size()), key(w.key.size());
  const auto batch = static_cast<size_t>(options.batch);
  double loss = 0;
  uint64_t drawn = 0;
  for (int64_t epoch = 0; epoch < options.epochs; ++epoch) {
    loss = 0;
    for (size_t first = 0; first < examples.size(); first += batch) {
      const auto of_step = examples.subspan(first, std::min(batch, examples.size() - first));
      Projection gradient = zeros_like(w);
      for (const ProjectionExample& example : of_step) {
        const kernels::EdgeList others =
            draw_others(example.gold, options.is_causal, splitmix64(options.seed + drawn++));
        loss += projection_loss(example, others, options.margin, w, gradient);
      }
      for (Doubles* part : {&gradient.query, &gradient.key})
        for (double& x : *part) x /= static_cast<double>(of_step.size());
      clip(gradient, options.most_norm);
      query.step(w.query, gradient.query, options.lr);
      key.step(w.key, gradient.key, options.lr);
    }
    loss /= static_cast<double>(examples.size());
  }
  return loss;
}

}  // namespace stipple::model
