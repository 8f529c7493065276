// SPDX-License-Identifier: Apache-2.0
// Graphs by hand.
#pragma once

#include <vector>

#include "kernels/edge_list.h"

namespace stipple::test {

/// Rows of the columns given.
inline kernels::EdgeList edges_of(const std::vector<std::vector<int32_t>>& rows) {
  kernels::EdgeList list{.row_ptr = {0}, .columns = {}, .multiplicity = {}};
  for (const auto& row : rows) {
    list.columns.insert(list.columns.end(), row.begin(), row.end());
    list.row_ptr.push_back(list.num_edges());
  }
  return list;
}

}  // namespace stipple::test
