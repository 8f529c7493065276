// SPDX-License-Identifier: Apache-2.0
#include "kernels/squared_error.h"

#include "core/dispatch.h"

namespace stipple::kernels {

void squared_error(const Stream& stream, const SquaredError& args) {
  const int64_t rows = args.y.numel();
  STIPPLE_CHECK_SHAPE("squared_error", args.y, {rows});
  STIPPLE_CHECK_SHAPE("squared_error", args.target, {rows});
  STIPPLE_CHECK_SHAPE("squared_error", args.scale, {1});
  STIPPLE_CHECK_SHAPE("squared_error", args.loss_sum, {1});
  STIPPLE_CHECK_SHAPE("squared_error", args.count, {1});
  if (!args.dy.empty()) STIPPLE_CHECK_SHAPE("squared_error", args.dy, {rows});
  STIPPLE_DISPATCH(stream, squared_error, args);
}

}  // namespace stipple::kernels
