// SPDX-License-Identifier: Apache-2.0
#include "kernels/bound_edges.h"

#include "core/dispatch.h"
#include "kernels/checks.h"

namespace stipple::kernels {

void write_bound_edges(const Stream& stream, const WriteBoundEdges& args) {
  constexpr const char* kOp = "write_bound_edges";
  const Shape& q = args.q.shape;
  STIPPLE_CHECK_AS(ShapeError, q.rank() == 4 && q[1] > 0 && q[3] > 0, kOp, ": q has shape ",
                   q.str(), ", expected [B, H, N, D]");
  const EdgeSet& edges = args.edges;
  STIPPLE_CHECK_AS(ShapeError, q[2] == edges.num_queries && q[0] * q[1] == edges.num_problems(),
                   kOp, ": a graph of ", edges.num_problems(), " problems of ", edges.num_queries,
                   " queries, and q of shape ", q.str());
  const int64_t m = edges.num_keys;
  expect_shape(kOp, "k", args.k.shape, {q[0], q[1], m, q[3]});
  STIPPLE_CHECK_SHAPE("write_bound_edges", args.tau, ({q[0], q[1], q[2]}));
  STIPPLE_CHECK_AS(ShapeError, args.key_groups.shape.rank() == 4, kOp, ": key_groups has shape ",
                   args.key_groups.shape.str(), ", expected [B, H, M, T]");
  STIPPLE_CHECK_SHAPE("write_bound_edges", args.key_groups,
                      ({q[0], q[1], m, args.key_groups.shape[3]}));
  STIPPLE_CHECK_SHAPE("write_bound_edges", args.heads.alpha, ({q[1]}));
  if (!args.heads.temperature.empty())
    STIPPLE_CHECK_SHAPE("write_bound_edges", args.heads.temperature, ({q[1]}));
  STIPPLE_CHECK(args.q.precision == args.k.precision, kOp, ": q and k differ in storage");
  STIPPLE_CHECK(args.num_groups > 0, kOp, ": ", args.num_groups, " groups");
  STIPPLE_CHECK(!edges.capacity.multiplicity, kOp, ": a graph with multiplicities is drawn");
  check_mask(kOp, "query_mask", args.query_mask, q[0], q[2]);
  check_mask(kOp, "key_mask", args.key_mask, q[0], m);
  STIPPLE_CHECK(args.scratch != nullptr, kOp, ": scratch is missing");
  STIPPLE_DISPATCH(stream, write_bound_edges, args);
}

}  // namespace stipple::kernels
