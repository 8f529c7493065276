// SPDX-License-Identifier: Apache-2.0
#include "kernels/graph_recall.h"

#include "core/dispatch.h"
#include "kernels/checks.h"

namespace stipple::kernels {

void graph_recall(const Stream& stream, const GraphRecall& args) {
  const Shape& q = args.q.shape;
  STIPPLE_CHECK_AS(ShapeError, q.rank() == 4, "graph_recall: q has shape ", q.str(),
                   ", expected [B, H, N, D]");
  STIPPLE_CHECK_AS(ShapeError,
                   args.graph.num_problems() == q[0] * q[1] && args.graph.num_queries == q[2],
                   "graph_recall: a graph of ", args.graph.num_problems(), " problems and ",
                   args.graph.num_queries, " queries for q ", q.str());
  STIPPLE_CHECK_SHAPE("graph_recall", args.k, ({q[0], q[1], args.graph.num_keys, q[3]}));
  STIPPLE_CHECK_SHAPE("graph_recall", args.tau, ({q[0], q[1], q[2]}));
  STIPPLE_CHECK_SHAPE("graph_recall", args.support_size, ({q[0], q[1], q[2]}));
  STIPPLE_CHECK_SHAPE("graph_recall", args.heads.alpha, ({q[1]}));
  for (const View<int64_t>& counts :
       {args.support, args.found, args.edges, args.exact_rows, args.rows})
    STIPPLE_CHECK_SHAPE("graph_recall", counts, ({q[1]}));
  STIPPLE_CHECK_SHAPE("graph_recall", args.dropped, ({q[1]}));
  STIPPLE_CHECK(!has_room_for_bits(args.graph), "graph_recall: the graph must be CSR");
  check_same_storage("graph_recall", {args.q, args.k});
  check_mask("graph_recall", "query_mask", args.query_mask, q[0], q[2]);
  STIPPLE_CHECK(args.scratch != nullptr, "graph_recall: scratch is missing");
  STIPPLE_DISPATCH(stream, graph_recall, args);
}

}  // namespace stipple::kernels
