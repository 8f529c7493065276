// SPDX-License-Identifier: Apache-2.0
#include "kernels/convert.h"

#include "core/dispatch.h"

namespace stipple::kernels {

void convert(const Stream& stream, const Convert& args) {
  STIPPLE_CHECK_AS(ShapeError, args.y.numel() == args.x.numel(), "convert: y ", args.y.shape.str(),
                   " and x ", args.x.shape.str(), " differ in size");
  STIPPLE_DISPATCH(stream, convert, args);
}

}  // namespace stipple::kernels
