// SPDX-License-Identifier: Apache-2.0
// How the projections of Sparsefinder are found (docs/attention/sparsefinder.md): keys that a query
// attends to, its gold keys, should be nearer to it than as many others, drawn at random, by a
// margin. On the host, in double precision, of queries and keys that are mere numbers here: nothing
// flows back to the model.
//
//   loss = mean over queries [margin + sum_gold |q' - k'|^2 - sum_drawn |q' - k'|^2]_+ ,
//   q' = q W_q, k' = k W_k, or with a hidden layer q' = tanh(q W_1 + b) W_2, and of keys likewise
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/edge_list.h"

namespace stipple::model {

/// One head of one sequence.
struct ProjectionExample {
  std::vector<float> q, k;  // [N, D]  of real tokens
  kernels::EdgeList gold;   // [N, N]
};

/// With the coordinate of kernels/mips.h: D + 1 channels.
ProjectionExample with_mips(ProjectionExample, int64_t d);

/// Queries and keys both [q, k], of 2 D channels: where a token has one place, as who asks and as who
/// is asked.
ProjectionExample joined(ProjectionExample, int64_t d);

/// Keys to keep away from: for each query as many as it has gold keys, or all others where there are
/// fewer; without replacement, uniformly, of those up to itself where causal. A pure function of its
/// arguments.
kernels::EdgeList draw_others(const kernels::EdgeList& gold, bool is_causal, uint64_t seed);

/// Of the numbers of one map of tokens, in a row: W [D, R], or W_1 [D, F], b [F] and W_2 [F, R].
struct ProjectionShape {
  int64_t d = 1, r = 1;
  int64_t hidden = 0;  ///< F; 0: no hidden layer
  int64_t numel() const { return hidden == 0 ? d * r : (d + 1 + r) * hidden; }
};

/// The numbers of queries' map and of keys'; one array for both where shared.
struct Projection {
  ProjectionShape shape = {};
  bool is_shared = true;
  std::vector<double> query = {}, key = {};  ///< key: empty where shared

  std::span<const double> of_keys() const { return is_shared ? query : key; }
};

/// Appends what the map makes of the rows x [N, D], [N, R], to `rows`.
void append_projected(std::span<const float> x, std::span<const double> map, const ProjectionShape&,
                      std::vector<float>& rows);

/// The loss of one example, and += its gradient. Queries without gold keys, or without others, count
/// for nothing.
double projection_loss(const ProjectionExample&, const kernels::EdgeList& others, double margin,
                       const Projection&, Projection& gradient);

struct ProjectionFitOptions {
  int64_t epochs = 5;
  int64_t batch = 16;  ///< examples of a step
  double margin = 1.0;
  double lr = 0.01;        ///< of Adam
  double most_norm = 1.0;  ///< of a step's gradient
  bool is_causal = false;
  uint64_t seed = 0;
};

/// Adam from `start` over the examples in order. Returns the mean loss of the last epoch.
double fit_projection(std::span<const ProjectionExample>, const ProjectionFitOptions&,
                      Projection& start);

}  // namespace stipple::model
