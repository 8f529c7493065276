// SPDX-License-Identifier: Apache-2.0
#include "kernels/adamw.h"

#include "core/dispatch.h"

namespace stipple::kernels {

void prepare_update(const Stream& stream, const PrepareUpdate& args) {
  STIPPLE_CHECK_SHAPE("prepare_update", args.scalars, {1});
  STIPPLE_CHECK_SHAPE("prepare_update", args.applied_steps, {1});
  STIPPLE_CHECK_SHAPE("prepare_update", args.squared_norm, {1});
  STIPPLE_CHECK_SHAPE("prepare_update", args.rates, {1});
  STIPPLE_DISPATCH(stream, prepare_update, args);
}

void adamw(const Stream& stream, const AdamW& args) {
  const int64_t n = args.x.numel();
  STIPPLE_CHECK_AS(ShapeError, args.m.numel() == n && args.v.numel() == n && args.grad.numel() == n,
                   "adamw: arrays of different sizes ", n, ", ", args.m.numel(), ", ",
                   args.v.numel(), ", ", args.grad.numel());
  STIPPLE_CHECK_SHAPE("adamw", args.scalars, {1});
  STIPPLE_DISPATCH(stream, adamw, args);
}

}  // namespace stipple::kernels
