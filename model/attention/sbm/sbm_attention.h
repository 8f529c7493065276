// SPDX-License-Identifier: Apache-2.0
// Attention over a graph that is sampled from a mixed-membership stochastic block model of queries
// and keys. Formulas, deviations and costs: README.md beside this file.
//
// Saves, in floats per token and head: 4 head_dim + 2 clusters + 1, and the graph.
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
    View<float> embedded;     // [B, H, N, D]  phi(q)
    View<float> memberships;  // [B, H, N, K]
  };
  struct Saved final : Attention::Saved {
    Side query, key;
    View<float> blocks;         // [H, K, K]  S
    View<double> y_sum, z_sum;  // [B * H, K]
    kernels::EdgeSet edges;
    View<float> lse;  // [B, H, N]
  };

  SbmAttention(const AttentionConfig&, ParameterStore&, const AttentionShape&);
  std::unique_ptr<Attention::Saved> make_saved() const override;

 private:
  void do_forward(Context&, const AttentionInputs&, View<float> out,
                  Attention::Saved&) const override;
  void do_backward(Context&, const AttentionInputs&, View<const float> out, View<const float> dout,
                   const Attention::Saved&, const AttentionGrads&) const override;

  void embed(Context&, View<const float> x, View<const uint8_t> mask, Side&) const;
  void embed_backward(Context&, const Side&, View<float> dmemberships, View<float> dx) const;
  void draw_graph(Context&, const AttentionInputs&, View<double> expected, Saved&) const;
  void report(Context&, const AttentionInputs&, View<const double> expected, const Saved&) const;
  void membership_backward(Context&, const AttentionInputs&, const Saved&, View<float> row_grad,
                           View<float> column_grad, const AttentionGrads&) const;

  View<const uint8_t> graph_mask(const AttentionInputs&) const;
  kernels::AttentionDropout dropout(const Context&, const AttentionInputs&) const;
  kernels::EdgeCapacity edge_capacity() const;
  double edge_weight(const AttentionInputs&) const;
  float ste_clip() const;

  const ParameterStore& store_;
  SbmConfig config_;
  AttentionShape shape_;
  float scale_;
  float dropout_rate_;
  kernels::EdgesImplementation implementation_;
  Linear phi_hidden_, phi_out_;
  ParamId clusters_;
};

}  // namespace stipple::model
