// SPDX-License-Identifier: Apache-2.0
// Which keys a query is expected to attend to: Sparsefinder's predictors over projections of queries
// and keys, as an EdgeSet. Nothing of it is learned by gradients: projections and centroids begin as
// a function of the seed alone, and `stipple sparsefinder fit` finds better ones.
//
// Declares, for a layer named `name`:
//   name.project [H, D, R]        or name.project_query and name.project_key, where not shared; with
//                                 mips, D + 1; of concat, 2 D; behind a hidden layer, F
//   name.hidden [H, D, F], name.hidden_bias [H, F]   of mlp, likewise _query and _key
//   name.centroids [rounds, H, C, R]   of clusters; of hashes, directions and their opposites
//   name.routing [H, R, C]        of routing: centroids, as columns, times -1
//   name.draws [H]                where a graph goes by places: what names random choices
// Which of them is there: SparsefinderConfig::projects(), compares(), has_clusters().
#pragma once

#include <string>

#include "kernels/attend_entmax.h"
#include "kernels/edges.h"
#include "model/attention/attention.h"
#include "model/attention/sparsefinder/sparsefinder_config.h"

namespace stipple::model {

class GraphPredictor {
 public:
  GraphPredictor(const SparsefinderConfig&, ParameterStore&, FactTable&, const AttentionShape&);

  /// The graph of this leaf, in ctx.saved; `overflow`, on CUDA: where edges without room are
  /// counted. kernels::EdgeRoomError. O(N D R + edges), with the distance predictor O(N M R).
  kernels::EdgeSet predict(Context&, const AttentionInputs&, View<int32_t> overflow) const;
  /// Keys of clusters that may hold some of a query's exact support, in ctx.saved; tau: of attention
  /// over any pairs, such as the predicted graph. Only of clusters. kernels::EdgeRoomError as above.
  kernels::EdgeSet certify(Context&, const AttentionInputs&, const kernels::EntmaxHeads&,
                           float scale, View<const float> tau, View<int32_t> overflow) const;

 private:
  /// From tokens to where they are compared.
  struct Map {
    ParamId hidden, bias, project;
  };
  Map declare_map(ParameterStore&, const AttentionShape&, const std::string& suffix) const;
  struct Groups {
    View<int32_t> queries, keys;  // [B, H, N, T]
    int64_t count;                ///< in all
  };
  /// Queries or keys before they are projected, [B, H, N, content_channels()], and as compared. Where
  /// the configuration joins_tokens(), the same of both.
  ConstRealView content_of(Context&, const AttentionInputs&, bool are_keys) const;
  View<const float> compared(Context&, const AttentionInputs&, bool are_keys) const;
  /// In evaluation: how evenly tokens are spread over clusters.
  void tell_occupancy(Context&, const Groups&) const;
  View<int32_t> groups_of(Context&, View<const float> x, View<const uint8_t> mask) const;
  Groups groups_by_place(Context&, const AttentionInputs&) const;
  void write_group_edges(Context&, const AttentionInputs&, const Groups&,
                         const kernels::EdgeSet&) const;
  kernels::EdgeSet alloc_graph(Context&, const AttentionInputs&, View<int32_t> overflow) const;
  void write_edges(Context&, const AttentionInputs&, const kernels::EdgeSet&) const;
  kernels::math::AlwaysThere always() const;

  const ParameterStore& store_;
  SparsefinderConfig config_;
  bool is_causal_;
  int64_t longest_;               ///< tokens
  FactId occupancy_, sequences_;  ///< double [H], int64_t [H]; of clusters that are measured
  Map query_map_, key_map_;
  ParamId centroids_, routing_, draws_;
};

}  // namespace stipple::model
