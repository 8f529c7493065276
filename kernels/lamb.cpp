// SPDX-License-Identifier: Apache-2.0
#include "kernels/lamb.h"

#include "core/dispatch.h"

namespace stipple::kernels {

void lamb(const Stream& stream, const Lamb& args) {
  const int64_t n = args.x.numel();
  STIPPLE_CHECK_AS(ShapeError, args.m.numel() == n && args.v.numel() == n && args.grad.numel() == n,
                   "lamb: arrays of different sizes ", n, ", ", args.m.numel(), ", ",
                   args.v.numel(), ", ", args.grad.numel());
  STIPPLE_CHECK_AS(ShapeError, args.ratios.numel() == args.tensors.numel(),
                   "lamb: ", args.ratios.numel(), " ratios of ", args.tensors.numel(), " tensors");
  STIPPLE_CHECK_SHAPE("lamb", args.scalars, {1});
  STIPPLE_CHECK_SHAPE("lamb", args.summary, {1});
  STIPPLE_CHECK(args.scratch != nullptr, "lamb: needs scratch");
  STIPPLE_DISPATCH(stream, lamb, args);
}

}  // namespace stipple::kernels
