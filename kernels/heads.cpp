// SPDX-License-Identifier: Apache-2.0
#include "kernels/heads.h"

#include "core/dispatch.h"

namespace stipple::kernels {
namespace {

void check_heads(const char* op, const Shape& joined, const Shape& split) {
  STIPPLE_CHECK_AS(ShapeError,
                   joined.rank() == 3 && split.rank() == 4 && joined[0] == split[0] &&
                       joined[1] == split[2] && joined[2] == split[1] * split[3],
                   op, ": ", joined.str(), " and ", split.str(),
                   " are not [B, N, H * D] and [B, H, N, D]");
}

}  // namespace

void split_heads(const Stream& stream, const SplitHeads& args) {
  check_heads("split_heads", args.x.shape, args.y.shape);
  check_same_storage("split_heads", {args.x, args.y});
  STIPPLE_DISPATCH(stream, split_heads, args);
}

void merge_heads(const Stream& stream, const MergeHeads& args) {
  check_heads("merge_heads", args.y.shape, args.x.shape);
  check_same_storage("merge_heads", {args.x, args.y});
  STIPPLE_DISPATCH(stream, merge_heads, args);
}

}  // namespace stipple::kernels
