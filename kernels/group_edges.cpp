// SPDX-License-Identifier: Apache-2.0
#include "kernels/group_edges.h"

#include "core/dispatch.h"
#include "kernels/graph_checks.h"

namespace stipple::kernels {

void write_group_edges(const Stream& stream, const WriteGroupEdges& args) {
  constexpr const char* kOp = "write_group_edges";
  check_graph_of_tokens(kOp, args, args.query_groups.shape, args.key_groups.shape);
  const int64_t of_token = args.query_groups.shape[3];
  STIPPLE_CHECK(of_token <= kMostGroupsOfToken, kOp, ": ", of_token, " groups of a token; at most ",
                kMostGroupsOfToken);
  STIPPLE_CHECK(args.num_groups > 0, kOp, ": ", args.num_groups, " groups");
  STIPPLE_CHECK(
      args.edges.groups.empty() || (of_token == 1 && args.edges.groups.count() == args.num_groups),
      kOp, ": edges.groups are ", args.edges.groups.empty() ? 0 : args.edges.groups.count(),
      ", for tokens with one of ", args.num_groups, " groups each; they have ", of_token);
  STIPPLE_DISPATCH(stream, write_group_edges, args);
}

}  // namespace stipple::kernels
