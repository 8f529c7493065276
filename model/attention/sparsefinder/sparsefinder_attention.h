// SPDX-License-Identifier: Apache-2.0
// Entmax attention over a graph that is predicted before it is computed, or exact attention, over all
// pairs or those that the prediction leaves possible, beside which the prediction is measured; heads
// may switch from all pairs to the graph. Formulas, deviations and costs: README.md beside this file.
//
// Saves what entmax over pairs does, and the room of the graph; certified, of two.
#pragma once

#include <optional>

#include "model/attention/entmax/entmax_over_pairs.h"
#include "model/attention/sparsefinder/graph_predictor.h"
#include "model/attention/sparsefinder/head_gate.h"
#include "model/attention/sparsefinder/prediction_facts.h"

namespace stipple::model {

class SparsefinderAttention final : public Attention {
 public:
  struct Saved final : EntmaxOverPairs::Saved {
    kernels::EdgeSet graph;  ///< predicted
  };

  SparsefinderAttention(const AttentionConfig&, ParameterStore&, FactTable&, const AttentionShape&);
  static AttentionTraits traits(const AttentionConfig&);
  static void validate(const AttentionConfig&);

  std::unique_ptr<Attention::Saved> make_saved() const override;
  /// Groups are of tokens, not of places.
  bool reads_content() const override { return true; }
  void begin_step(const Stream&, const RngKey&) const override;
  void tell_graphs(Context&, const AttentionInputs&, const Attention::Saved&) const override;

 private:
  void do_forward(Context&, const AttentionInputs&, RealView out, Attention::Saved&) const override;
  void do_backward(Context&, const AttentionInputs&, ConstRealView out, ConstRealView dout,
                   const Attention::Saved&, const AttentionGrads&) const override;
  /// Whether every head of the last forward saw its whole support.
  bool was_exact(const Saved&) const;
  /// The pairs to compute; none: all. Of heads that have switched: the graph.
  kernels::EdgeSet pairs_of(Context&, const AttentionInputs&, const Saved&) const;
  void measure(Context&, const AttentionInputs&, const Saved&) const;

  SparsefinderConfig config_;
  GraphPredictor predictor_;
  EntmaxOverPairs entmax_;
  PredictionFacts facts_;
  std::optional<HeadGate> gate_;
};

}  // namespace stipple::model
