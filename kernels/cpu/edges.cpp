// SPDX-License-Identifier: Apache-2.0
#include "kernels/edges.h"

#include "kernels/cpu/masks.h"

namespace stipple::kernels::cpu {

void edge_statistics(const Stream& stream, const EdgeStatistics& args) {
  const EdgeSet& graph = args.graph;
  const int64_t heads = args.edges.shape[0];
  stream.parallel_for(heads, [&](int64_t head, int) {
    int64_t edges = 0;
    int64_t pairs = 0;
    int64_t empty_rows = 0;
    int64_t rows = 0;
    for (int64_t p = head; p < graph.num_problems(); p += heads) {
      const uint8_t* queries = mask_row(args.query_mask, p / heads);
      const uint8_t* keys = mask_row(args.key_mask, p / heads);
      edges += graph.num_edges(p);
      const int64_t real_queries = count_real(queries, graph.num_queries);
      rows += real_queries;
      pairs += real_queries * count_real(keys, graph.num_keys);
      for (int64_t i = 0; i < graph.num_queries; ++i) {
        empty_rows += is_real(queries, i) && graph.degree(p, i) == 0 ? 1 : 0;
      }
    }
    args.edges[head] = edges;
    args.pairs[head] = pairs;
    args.empty_rows[head] = empty_rows;
    args.rows[head] = rows;
  });
}

}  // namespace stipple::kernels::cpu
