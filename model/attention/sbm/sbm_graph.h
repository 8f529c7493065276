// SPDX-License-Identifier: Apache-2.0
// The graph that SbmAttention drew, as it tells it: edges, memberships and blocks on the host, and
// the law by which these give the probability of an edge.
#pragma once

#include <utility>
#include <vector>

#include "kernels/sbm.h"
#include "model/attention/graph.h"

namespace stipple::model {

class SbmGraph final : public AttentionGraph {
 public:
  /// places: of the real tokens.
  SbmGraph(kernels::MaskLaw law, float delta, int64_t window_radius, std::vector<int64_t> places)
      : law_(law),
        delta_(static_cast<double>(delta)),
        window_radius_(window_radius),
        places_(std::move(places)) {}

  /// The law's mean at y S zᵀ + delta, in double. O(G² + n G)
  void probabilities(int64_t head, int64_t query, std::span<double> by_key) const override;

 private:
  double mean(double rate, bool is_in_window) const;

  kernels::MaskLaw law_;
  double delta_;           ///< exploration in force when the graph was drawn
  int64_t window_radius_;  ///< SbmConfig::window_radius()
  std::vector<int64_t> places_;
};

}  // namespace stipple::model
