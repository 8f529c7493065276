// SPDX-License-Identifier: Apache-2.0
#include "model/attention/entmax/support_graph.h"

#include <algorithm>

namespace stipple::model {

void SupportGraph::probabilities(int64_t head, int64_t query, std::span<double> by_key) const {
  const kernels::EdgeList& of_head = edges.at(static_cast<size_t>(head));
  const auto of_query = of_head.row_ptr.begin() + query;
  std::fill(by_key.begin(), by_key.end(), 0.0);
  for (int64_t e = of_query[0]; e < of_query[1]; ++e)
    by_key[static_cast<size_t>(of_head.columns[static_cast<size_t>(e)])] = 1.0;
}

}  // namespace stipple::model
