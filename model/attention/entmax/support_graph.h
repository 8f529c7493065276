// SPDX-License-Identifier: Apache-2.0
// The support of entmax attention as a graph to look at. Nothing is drawn: an edge is there or not.
#pragma once

#include "model/attention/graph.h"

namespace stipple::model {

class SupportGraph final : public AttentionGraph {
 public:
  /// 1 on edges, 0 elsewhere.
  void probabilities(int64_t head, int64_t query, std::span<double> by_key) const override;
};

}  // namespace stipple::model
