// SPDX-License-Identifier: Apache-2.0
// Checks that operations share which write a graph of what their queries and keys are.
#pragma once

#include "kernels/checks.h"
#include "kernels/edges.h"

namespace stipple::kernels {

/// queries [B, H, N, C] and keys [B, H, M, C] of a graph of B * H problems.
template <class Args>
void check_graph_of_tokens(const char* op, const Args& args, const Shape& queries,
                           const Shape& keys) {
  const EdgeSet& edges = args.edges;
  STIPPLE_CHECK_AS(ShapeError, queries.rank() == 4 && queries[1] > 0 && queries[3] > 0, op,
                   ": queries have shape ", queries.str(), ", expected [B, H, tokens, C]");
  STIPPLE_CHECK_AS(ShapeError, queries[2] == edges.num_queries, op, ": ", queries[2],
                   " queries, but a graph of ", edges.num_queries);
  const Shape expected = {queries[0], queries[1], edges.num_keys, queries[3]};
  STIPPLE_CHECK_AS(ShapeError, keys == expected, op, ": keys have shape ", keys.str(),
                   ", expected ", expected.str());
  STIPPLE_CHECK_AS(ShapeError, edges.num_problems() == queries[0] * queries[1], op,
                   ": the graph has ", edges.num_problems(), " problems, expected ",
                   queries[0] * queries[1]);
  STIPPLE_CHECK(!edges.capacity.multiplicity, op, ": a graph with multiplicities is drawn");
  check_mask(op, "query_mask", args.query_mask, queries[0], edges.num_queries);
  check_mask(op, "key_mask", args.key_mask, queries[0], edges.num_keys);
  STIPPLE_CHECK(args.always.globals >= 0, op, ": ", args.always.globals, " global tokens");
  STIPPLE_CHECK(args.scratch != nullptr, op, ": scratch is missing");
}

}  // namespace stipple::kernels
