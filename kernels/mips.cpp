// SPDX-License-Identifier: Apache-2.0
#include "kernels/mips.h"

#include "core/dispatch.h"
#include "kernels/checks.h"

namespace stipple::kernels {

void mips_tokens(const Stream& stream, const MipsTokens& args) {
  constexpr const char* kOp = "mips_tokens";
  const Shape& x = args.x.shape;
  STIPPLE_CHECK_AS(ShapeError, x.rank() == 4 && x[1] > 0, kOp, ": x has shape ", x.str(),
                   ", expected [B, H, N, D]");
  STIPPLE_CHECK_SHAPE("mips_tokens", args.y, ({x[0], x[1], x[2], x[3] + 1}));
  check_mask(kOp, "mask", args.mask, x[0], x[2]);
  STIPPLE_DISPATCH(stream, mips_tokens, args);
}

}  // namespace stipple::kernels
