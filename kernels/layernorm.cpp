// SPDX-License-Identifier: Apache-2.0
#include "kernels/layernorm.h"

#include "core/dispatch.h"

namespace stipple::kernels {

void layernorm(const Stream& stream, const LayerNorm& args) {
  STIPPLE_CHECK_AS(ShapeError, args.x.shape.rank() == 2 && args.x.shape[1] > 0, "layernorm: x is ",
                   args.x.shape.str(), ", expected [N, C]");
  const int64_t rows = args.x.shape[0], channels = args.x.shape[1];
  STIPPLE_CHECK_SHAPE("layernorm", args.y, {rows, channels});
  STIPPLE_CHECK_SHAPE("layernorm", args.mean, {rows});
  STIPPLE_CHECK_SHAPE("layernorm", args.rstd, {rows});
  STIPPLE_CHECK_SHAPE("layernorm", args.weight, {channels});
  STIPPLE_CHECK_SHAPE("layernorm", args.bias, {channels});
  STIPPLE_DISPATCH(stream, layernorm, args);
}

void layernorm_backward(const Stream& stream, const LayerNormBackward& args) {
  STIPPLE_CHECK_AS(ShapeError, args.x.shape.rank() == 2 && args.x.shape[1] > 0,
                   "layernorm_backward: x is ", args.x.shape.str(), ", expected [N, C]");
  const int64_t rows = args.x.shape[0], channels = args.x.shape[1];
  STIPPLE_CHECK_SHAPE("layernorm_backward", args.dx, {rows, channels});
  STIPPLE_CHECK_SHAPE("layernorm_backward", args.dy, {rows, channels});
  STIPPLE_CHECK_SHAPE("layernorm_backward", args.dweight, {channels});
  STIPPLE_CHECK_SHAPE("layernorm_backward", args.dbias, {channels});
  STIPPLE_CHECK_SHAPE("layernorm_backward", args.weight, {channels});
  STIPPLE_CHECK_SHAPE("layernorm_backward", args.mean, {rows});
  STIPPLE_CHECK_SHAPE("layernorm_backward", args.rstd, {rows});
  check_same_storage("layernorm_backward", {args.dx, args.dy});
  STIPPLE_CHECK(args.scratch != nullptr, "layernorm_backward: needs scratch");
  if (rows == 0) return;
  STIPPLE_DISPATCH(stream, layernorm_backward, args);
}

}  // namespace stipple::kernels
