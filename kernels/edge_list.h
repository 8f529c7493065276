// SPDX-License-Identifier: Apache-2.0
// One problem of an attention graph as plain lists in host memory, whatever its form and device:
// for who shows, stores or measures a graph. Kernels read an EdgeSet.
#pragma once

#include <cstdint>
#include <vector>

#include "core/stream.h"
#include "kernels/edges.h"

namespace stipple::kernels {

struct EdgeList {
  std::vector<int64_t> row_ptr;        // [N + 1]
  std::vector<int32_t> columns;        // [E]  strictly ascending within a row
  std::vector<uint16_t> multiplicity;  // [E]  how often each edge was drawn; empty: once

  int64_t num_queries() const { return static_cast<int64_t>(row_ptr.size()) - 1; }
  int64_t num_edges() const { return static_cast<int64_t>(columns.size()); }
};

/// Copies problem p from its device; waits for the stream. O(E), or O(N M / 32) of bits.
EdgeList download_edges(const EdgeSet&, int64_t p, const Stream&);

/// The graph among some of its queries and keys, which are then counted anew. `queries` and `keys`
/// ascend. O(E + N + M).
EdgeList subgraph(const EdgeList&, int64_t num_keys, const std::vector<int64_t>& queries,
                  const std::vector<int64_t>& keys);

}  // namespace stipple::kernels
