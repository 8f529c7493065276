// SPDX-License-Identifier: Apache-2.0
// Attention over a graph that is sampled from a mixed-membership stochastic block model of queries
// and keys. Formulas, deviations and costs: README.md beside this file.
//
// Saves, per token and head, 4 head_dim + 2 clusters activations of the precision in force, a
// float, and the graph; on the CPU also a bit of dropout beside every bit or edge of the graph.
#pragma once

#include "kernels/attend.h"
#include "kernels/edges.h"
#include "model/attention/attention.h"
#include "model/layers/linear.h"

namespace stipple::model {

class SbmAttention final : public Attention {
 public:
  /// One side, queries or keys, on its way to memberships.
  struct Side {
    Linear::Saved hidden, out;
    RealView embedded;     // [B, H, N, D]  phi(q)
    RealView memberships;  // [B, H, N, K]
  };
  struct Saved final : Attention::Saved {
    Side query, key;
    View<float> blocks;         // [H, K, K]  S
    View<double> y_sum, z_sum;  // [B * H, K]
    kernels::EdgeSet edges;
    View<float> lse;      // [B, H, N]
    View<uint32_t> kept;  // kernels::AttentionDropout::kept
  };

  SbmAttention(const AttentionConfig&, ParameterStore&, FactTable&, const AttentionShape&);
  static AttentionTraits traits(const AttentionConfig&);
  static void validate(const AttentionConfig&);

  std::unique_ptr<Attention::Saved> make_saved() const override;
  /// Memberships are of tokens, not of places.
  bool reads_content() const override { return true; }
  void tell_graphs(Context&, const AttentionInputs&, const Attention::Saved&) const override;

 private:
  void do_forward(Context&, const AttentionInputs&, RealView out, Attention::Saved&) const override;
  void do_backward(Context&, const AttentionInputs&, ConstRealView out, ConstRealView dout,
                   const Attention::Saved&, const AttentionGrads&) const override;

  void embed(Context&, ConstRealView x, View<const uint8_t> mask, Side&) const;
  void embed_backward(Context&, const Side&, View<float> dmemberships, RealView dx) const;
  void draw_graph(Context&, const AttentionInputs&, View<double> expected, Saved&) const;
  void report(Context&, const AttentionInputs&, View<const double> expected, const Saved&) const;
  void membership_backward(Context&, const AttentionInputs&, const Saved&, RealView row_grad,
                           RealView column_grad, const AttentionGrads&) const;

  View<const uint8_t> graph_mask(const AttentionInputs&) const;
  double edge_weight(const AttentionInputs&) const;
  float exploration(const Context&) const;
  float ste_clip() const;

  /// Facts about the graphs of a layer, by head, summed over the leaf.
  struct GraphFacts {
    FactId edges;            // int64_t [H]
    FactId pairs;            // int64_t [H]  real queries x real keys
    FactId empty_rows;       // int64_t [H]  real queries without an edge
    FactId rows;             // int64_t [H]  real queries
    FactId effective_cells;  // float [H]  exp(entropy of the block matrix)
    FactId overflow;         // int32_t [1]  edges that had no room
    FactId auxiliary_loss;   // double [1]
  };
  static GraphFacts declare(FactTable&, int64_t heads);

  const ParameterStore& store_;
  SbmConfig config_;
  AttentionShape shape_;
  float scale_;
  float dropout_rate_;
  kernels::EdgesImplementation implementation_;
  GraphFacts facts_;
  Linear phi_hidden_, phi_out_;
  ParamId clusters_;
};

}  // namespace stipple::model
