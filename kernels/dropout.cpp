// SPDX-License-Identifier: Apache-2.0
#include "kernels/dropout.h"

#include "core/dispatch.h"

namespace stipple::kernels {

void dropout(const Stream& stream, const Dropout& args) {
  STIPPLE_CHECK_AS(ShapeError, args.x.shape.rank() == 3, "dropout: x is ", args.x.shape.str(),
                   ", expected [B, N, C]");
  STIPPLE_CHECK_AS(ShapeError, args.y.shape == args.x.shape, "dropout: y has shape ",
                   args.y.shape.str(), ", expected ", args.x.shape.str());
  STIPPLE_CHECK_SHAPE("dropout", args.samples, {args.x.shape[0]});
  STIPPLE_CHECK(args.rate >= 0.0f && args.rate < 1.0f, "dropout: rate ", args.rate,
                " is not in [0, 1)");
  STIPPLE_DISPATCH(stream, dropout, args);
}

}  // namespace stipple::kernels
