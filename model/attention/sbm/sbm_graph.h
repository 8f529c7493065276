// SPDX-License-Identifier: Apache-2.0
// The graph that SbmAttention drew, as it tells it: edges, memberships and blocks on the host, and
// the law by which these give the probability of an edge.
#pragma once

#include "kernels/sbm.h"
#include "model/attention/graph.h"

namespace stipple::model {

class SbmGraph final : public AttentionGraph {
 public:
  SbmGraph(kernels::MaskLaw law, float delta, bool self_loop)
      : law_(law), delta_(static_cast<double>(delta)), self_loop_(self_loop) {}

  /// The law's mean at y S zᵀ + delta, in double. O(G² + n G)
  void probabilities(int64_t head, int64_t query, std::span<double> by_key) const override;

 private:
  double mean(double rate, bool is_loop) const;

  kernels::MaskLaw law_;
  double delta_;  ///< exploration in force when the graph was drawn
  bool self_loop_;
};

}  // namespace stipple::model
