// SPDX-License-Identifier: Apache-2.0
#include "kernels/pooling.h"

#include "core/dispatch.h"

namespace stipple::kernels {
namespace {

void check_pooling(const char* op, const Shape& tokens, const Shape& vectors, const Shape& mask,
                   MeanOver mean_over, int64_t padded_length) {
  STIPPLE_CHECK_AS(ShapeError,
                   tokens.rank() == 3 && tokens[1] > 0 &&
                       vectors == (Shape{tokens[0], tokens[2]}) &&
                       mask == (Shape{tokens[0], tokens[1]}),
                   op, ": tokens ", tokens.str(), ", pooled ", vectors.str(), ", mask ", mask.str(),
                   "; expected [B, N, C], [B, C], [B, N]");
  STIPPLE_CHECK(mean_over != MeanOver::kPadded || padded_length >= tokens[1], op,
                ": padded_length ", padded_length, " is shorter than the batch's ", tokens[1]);
}

void check_heads(const char* op, const Shape& joined, const Shape& split) {
  STIPPLE_CHECK_AS(ShapeError,
                   joined.rank() == 3 && split.rank() == 4 && joined[0] == split[0] &&
                       joined[1] == split[2] && joined[2] == split[1] * split[3],
                   op, ": ", joined.str(), " and ", split.str(),
                   " are not [B, N, H * D] and [B, H, N, D]");
}

}  // namespace

void pooling(const Stream& stream, const Pooling& args) {
  check_pooling("pooling", args.x.shape, args.y.shape, args.mask.shape, args.mean_over,
                args.padded_length);
  STIPPLE_DISPATCH(stream, pooling, args);
}

void pooling_backward(const Stream& stream, const PoolingBackward& args) {
  check_pooling("pooling_backward", args.dx.shape, args.dy.shape, args.mask.shape, args.mean_over,
                args.padded_length);
  STIPPLE_DISPATCH(stream, pooling_backward, args);
}

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
