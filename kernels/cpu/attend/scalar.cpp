// SPDX-License-Identifier: Apache-2.0
// Attention as plain loops over edges: the definition that the vectorised bodies are tested
// against.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/attend/scalar_pairs.h"

namespace stipple::kernels::cpu::scalar {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// The word with a bit of row i among those that are kept.
uint32_t& kept_word(const AttendProblem& p, int64_t i, int64_t bit) {
  const int64_t row = p.columns != nullptr ? p.row_ptr[i] / 32 + i : i * ((p.num_keys + 31) / 32);
  return p.kept[row + bit / 32];
}

/// What dropout multiplies weight (i, j) with, in forward, which decides it.
float decide(const AttendProblem& p, int64_t i, int64_t j, int64_t bit) {
  if (!p.dropout.on) return 1.0f;
  const bool keep = keeps(p.dropout, i, j);
  if (p.kept != nullptr) {
    uint32_t& word = kept_word(p, i, bit);
    word = (word & ~(1u << (bit % 32))) | (keep ? 1u : 0u) << (bit % 32);
  }
  return keep ? p.dropout.rescale : 0.0f;
}

/// The same in backward.
float dropout_factor(const AttendProblem& p, int64_t i, int64_t j, int64_t bit) {
  if (!p.dropout.on) return 1.0f;
  const bool keep =
      p.kept == nullptr ? keeps(p.dropout, i, j) : (kept_word(p, i, bit) >> (bit % 32) & 1u) != 0;
  return keep ? p.dropout.rescale : 0.0f;
}

void forward_row(const AttendProblem& p, int64_t i) {
  float* o = p.o + i * p.dim;
  std::fill(o, o + p.dim, 0.0f);
  float highest = -kInfinity;
  bool empty = true;
  for_each_edge(p, i, [&](int64_t j, float, int64_t) {
    if (!counts(p, j)) return;
    empty = false;
    highest = std::max(highest, score(p, i, j));
  });
  p.lse[i] = -kInfinity;
  if (empty) return;
  float sum = 0.0f;
  for_each_edge(p, i, [&](int64_t j, float drawn, int64_t bit) {
    if (!counts(p, j)) return;
    const float weight = drawn * std::exp(score(p, i, j) - highest);
    sum += weight;
    add_scaled(o, weight * decide(p, i, j, bit), p.v + j * p.dim, p.dim);
  });
  for (int64_t x = 0; x < p.dim; ++x) o[x] /= sum;
  p.lse[i] = highest + std::log(sum);
}

void forward(const AttendProblem& p, const ForwardBuffers&, int64_t first_row, int64_t last_row) {
  for (int64_t i = first_row; i < last_row; ++i) forward_row(p, i);
}

float straight_through(const AttendProblem& p, int64_t i, int64_t j, float ds, float s) {
  if (std::abs(i - j) <= p.window_radius) return 0.0f;
  const float f = p.rule == SteRule::kPaper && counts(p, j) ? ds * s : ds;
  return std::clamp(f + p.regularizer, -p.clip, p.clip);
}

void backward_row(const AttendProblem& p, const BackwardPart& part, int64_t i) {
  const float* q = p.q + i * p.dim;
  const float* dout = p.dout + i * p.dim;
  const float delta = p.delta != nullptr ? p.delta[i] : dot(dout, p.final_o + i * p.dim, p.dim);
  for_each_edge(p, i, [&](int64_t j, float drawn, int64_t bit) {
    if (j < part.keys.begin || j >= part.keys.end) return;
    const float s = score(p, i, j);
    const float weight = counts(p, j) ? drawn * std::exp(s - p.final_lse[i]) : 0.0f;
    const float factor = dropout_factor(p, i, j, bit);
    const float ds = weight * (factor * dot(dout, p.v + j * p.dim, p.dim) - delta);
    const float dp = p.clusters == 0 ? 0.0f : straight_through(p, i, j, ds, s);
    if (part.by_query) {
      add_scaled(p.dq + i * p.dim, p.scale * ds, p.k + j * p.dim, p.dim);
      add_scaled(p.row_grad + i * p.clusters, dp, p.z + j * p.clusters, p.clusters);
    }
    if (part.by_key) {
      add_scaled(p.dk + j * p.dim, p.scale * ds, q, p.dim);
      add_scaled(p.dv + j * p.dim, weight * factor, dout, p.dim);
      add_scaled(p.column_grad + j * p.clusters, dp, p.y + i * p.clusters, p.clusters);
    }
  });
}

void backward(const AttendProblem& p, const BackwardBuffers&, const BackwardPart& part) {
  const auto clear = [](float* gradient, Range rows, int64_t width) {
    std::fill(gradient + rows.begin * width, gradient + rows.end * width, 0.0f);
  };
  if (part.by_query) {
    clear(p.dq, part.queries, p.dim);
    clear(p.row_grad, part.queries, p.clusters);
  }
  if (part.by_key) {
    clear(p.dk, part.keys, p.dim);
    clear(p.dv, part.keys, p.dim);
    clear(p.column_grad, part.keys, p.clusters);
  }
  for (int64_t i = part.queries.begin; i < part.queries.end; ++i) backward_row(p, part, i);
}

}  // namespace

const AttendBodies kAttend = {forward, backward, dot};

}  // namespace stipple::kernels::cpu::scalar
