// SPDX-License-Identifier: Apache-2.0
#include "kernels/group_edges.h"

#include "core/dispatch.h"
#include "kernels/checks.h"
#include "kernels/graph_to_write.h"
#include "kernels/write_edges.h"

namespace stipple::kernels {
namespace {

/// queries [B, H, N, C] and keys [B, H, M, C] of a graph of B * H problems.
template <class Args>
void check_group_graph(const char* op, const Args& args, const Shape& queries, const Shape& keys) {
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

}  // namespace

void write_group_edges(const Stream& stream, const WriteGroupEdges& args) {
  constexpr const char* kOp = "write_group_edges";
  check_group_graph(kOp, args, args.query_groups.shape, args.key_groups.shape);
  const int64_t of_token = args.query_groups.shape[3];
  STIPPLE_CHECK(of_token <= kMostGroupsOfToken, kOp, ": ", of_token, " groups of a token; at most ",
                kMostGroupsOfToken);
  STIPPLE_CHECK(args.num_groups > 0, kOp, ": ", args.num_groups, " groups");
  STIPPLE_DISPATCH(stream, write_group_edges, args);
}

void write_near_edges(const Stream& stream, const WriteNearEdges& args) {
  check_group_graph("write_near_edges", args, args.q.shape, args.k.shape);
  write_graph(stream, {.edges = args.edges,
                       .form = EdgeForm::kCsr,
                       .query_mask = args.query_mask,
                       .key_mask = args.key_mask,
                       .source = {.pattern = {.is_causal = args.is_causal},
                                  .near = {.q = args.q.data,
                                           .k = args.k.data,
                                           .n = args.q.shape[2],
                                           .m = args.k.shape[2],
                                           .r = args.q.shape[3],
                                           .nearness = args.nearness,
                                           .threshold = args.threshold,
                                           .always = args.always}},
                       .scratch = args.scratch});
}

}  // namespace stipple::kernels
