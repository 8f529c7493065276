// SPDX-License-Identifier: Apache-2.0
// What Sparsefinder tells of its graphs, by layer and head: how dense they are and, where exact
// attention was computed beside them, what they are worth (kernels/graph_recall.h).
#pragma once

#include "kernels/graph_recall.h"
#include "model/attention/attention.h"
#include "model/facts.h"

namespace stipple::model {

class PredictionFacts {
 public:
  /// Of exact attention.
  struct Exact {
    View<const float> tau;             // [B, H, N]
    View<const int32_t> support_size;  // [B, H, N]
  };

  /// computes_apart: pairs that are not those of the graph.
  PredictionFacts(FactTable&, int64_t heads, bool measures, bool computes_apart);

  /// Where edges without room are counted.
  View<int32_t> overflow(Context&) const;
  View<int32_t> computed_overflow(Context&) const;
  /// The graph, and what of it has weight.
  void tell_graph(Context&, const AttentionInputs&, const kernels::EdgeSet&,
                  const kernels::EntmaxSupport&, bool is_causal) const;
  /// Which pairs attention computed.
  void tell_computed(Context&, const AttentionInputs&, const kernels::EdgeSet&) const;
  void tell_recall(Context&, const AttentionInputs&, const kernels::EdgeSet&, const Exact&,
                   const kernels::EntmaxHeads&, float scale) const;

 private:
  void show_recall(FactTable&, int64_t heads);
  void tell_edges(Context&, const AttentionInputs&, const kernels::EdgeSet&, FactId edges,
                  View<int64_t> empty_rows) const;

  FactId edges_, empty_rows_, weighted_, pairs_, rows_;                   // int64_t [H]
  FactId computed_;                                                       // int64_t [H]
  FactId overflow_, computed_overflow_;                                   // int32_t [1]
  FactId support_, found_, measured_edges_, exact_rows_, measured_rows_;  // int64_t [H]
  FactId dropped_;                                                        // double [H]
};

}  // namespace stipple::model
