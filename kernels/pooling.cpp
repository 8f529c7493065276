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

}  // namespace stipple::kernels
