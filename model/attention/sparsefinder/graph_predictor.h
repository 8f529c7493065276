// SPDX-License-Identifier: Apache-2.0
// Which keys a query is expected to attend to: Sparsefinder's predictors over projections of queries
// and keys, as an EdgeSet. Nothing of it is learned by gradients: projections and centroids begin as
// a function of the seed alone, and `stipple sparsefinder fit` finds better ones.
//
// Declares, for a layer named `name`:
//   name.project [H, D, R]        or name.project_query and name.project_key, where not shared
//   name.centroids [rounds, H, C, R]   of the cluster predictor
#pragma once

#include <string>

#include "kernels/edges.h"
#include "model/attention/attention.h"
#include "model/attention/sparsefinder/sparsefinder_config.h"

namespace stipple::model {

class GraphPredictor {
 public:
  GraphPredictor(const SparsefinderConfig&, ParameterStore&, const AttentionShape&);

  /// The graph of this leaf, in ctx.saved; `overflow`, on CUDA: where edges without room are
  /// counted. kernels::EdgeRoomError. O(N D R + edges), with the distance predictor O(N M R).
  kernels::EdgeSet predict(Context&, const AttentionInputs&, View<int32_t> overflow) const;

 private:
  struct Projected {
    View<float> q, k;  // [B, H, N, R]
  };
  Projected project(Context&, const AttentionInputs&) const;
  View<int32_t> groups_of(Context&, View<const float> x, View<const uint8_t> mask) const;
  void write_edges(Context&, const AttentionInputs&, const kernels::EdgeSet&) const;
  kernels::math::AlwaysThere always() const;

  const ParameterStore& store_;
  SparsefinderConfig config_;
  bool is_causal_;
  ParamId query_projection_, key_projection_, centroids_;
};

}  // namespace stipple::model
