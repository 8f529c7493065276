// SPDX-License-Identifier: Apache-2.0
#include "kernels/positions.h"

#include "core/dispatch.h"

namespace stipple::kernels {

void sinusoidal_positions(const Stream& stream, const SinusoidalPositions& args) {
  STIPPLE_CHECK_AS(ShapeError, args.y.shape.rank() == 2, "sinusoidal_positions: y is ",
                   args.y.shape.str(), ", expected [N, C]");
  STIPPLE_DISPATCH(stream, sinusoidal_positions, args);
}

void rotary_angles(const Stream& stream, const RotaryAngles& args) {
  STIPPLE_CHECK_AS(ShapeError, args.cosines.shape.rank() == 2, "rotary_angles: cosines are ",
                   args.cosines.shape.str(), ", expected [N, D / 2]");
  STIPPLE_CHECK_SHAPE("rotary_angles", args.sines, (args.cosines.shape));
  STIPPLE_DISPATCH(stream, rotary_angles, args);
}

void rotate(const Stream& stream, const Rotate& args) {
  const Shape& x = args.x.shape;
  STIPPLE_CHECK_AS(ShapeError, x.rank() == 4 && x[3] % 2 == 0, "rotate: x is ", x.str(),
                   ", expected [B, H, N, D] with an even D");
  STIPPLE_CHECK_SHAPE("rotate", args.y, (x));
  STIPPLE_CHECK_SHAPE("rotate", args.cosines, ({x[2], x[3] / 2}));
  STIPPLE_CHECK_SHAPE("rotate", args.sines, (args.cosines.shape));
  check_same_storage("rotate", {args.y, args.x});
  STIPPLE_DISPATCH(stream, rotate, args);
}

}  // namespace stipple::kernels
