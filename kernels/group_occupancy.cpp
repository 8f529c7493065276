// SPDX-License-Identifier: Apache-2.0
#include "kernels/group_occupancy.h"

#include "core/dispatch.h"
#include "kernels/checks.h"

namespace stipple::kernels {

void group_occupancy(const Stream& stream, const GroupOccupancy& args) {
  constexpr const char* kOp = "group_occupancy";
  const Shape& q = args.query_groups.shape;
  const Shape& k = args.key_groups.shape;
  STIPPLE_CHECK_AS(ShapeError,
                   q.rank() == 4 && q[1] > 0 && k.rank() == 4 && k[0] == q[0] && k[1] == q[1], kOp,
                   ": groups have shapes ", q.str(), " and ", k.str(),
                   ", expected [B, H, N, T] and [B, H, M, T]");
  STIPPLE_CHECK_SHAPE("group_occupancy", args.entropy, ({q[1]}));
  STIPPLE_CHECK_SHAPE("group_occupancy", args.sequences, ({q[1]}));
  STIPPLE_CHECK(args.num_groups > 0, kOp, ": ", args.num_groups, " groups");
  STIPPLE_CHECK(args.scratch != nullptr, kOp, ": scratch is missing");
  STIPPLE_DISPATCH(stream, group_occupancy, args);
}

}  // namespace stipple::kernels
