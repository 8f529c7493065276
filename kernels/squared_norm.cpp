// SPDX-License-Identifier: Apache-2.0
#include "kernels/squared_norm.h"

#include "core/dispatch.h"

namespace stipple::kernels {

void squared_norm(const Stream& stream, const SquaredNorm& args) {
  STIPPLE_CHECK_SHAPE("squared_norm", args.sum, {1});
  STIPPLE_CHECK(args.scratch != nullptr, "squared_norm: needs scratch");
  STIPPLE_DISPATCH(stream, squared_norm, args);
}

}  // namespace stipple::kernels
