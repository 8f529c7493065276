// SPDX-License-Identifier: Apache-2.0
// Where a token stands, without parameters: sines that are added to token vectors (Vaswani et al.,
// arXiv 1706.03762, 3.5), and rotations of queries and keys, whose scores then depend on the
// distance of two tokens and not on their places (Su et al., arXiv 2104.09864, 3.4.2).
//
// Both turn by the angles a(n, i) = n 10000^(-2i / W), i < W / 2, of position n in vectors of an
// even size W. Angles, sines and cosines are computed in double and rounded once.
#pragma once

#include "core/real_view.h"
#include "core/stream.h"
#include "core/view.h"

namespace stipple::kernels {

/// y[n, 2i] = sin a(n, i), y[n, 2i + 1] = cos a(n, i), with W = C or, for odd C, C + 1.
struct SinusoidalPositions {
  View<float> y;  // [N, C]  written
};
void sinusoidal_positions(const Stream&, const SinusoidalPositions&);
namespace cpu {
void sinusoidal_positions(const Stream&, const SinusoidalPositions&);
}
namespace cuda {
void sinusoidal_positions(const Stream&, const SinusoidalPositions&);
}

/// The cosine and sine of a(n, i), W = D: once for all layers, heads and sequences of a leaf.
struct RotaryAngles {
  View<float> cosines, sines;  // [N, D / 2]  written
};
void rotary_angles(const Stream&, const RotaryAngles&);
namespace cpu {
void rotary_angles(const Stream&, const RotaryAngles&);
}
namespace cuda {
void rotary_angles(const Stream&, const RotaryAngles&);
}

/// Turns the plane of channels i and i + D / 2 of a token at position n by a(n, i):
///   y[.., n, i]         = x[.., n, i] cos a - x[.., n, i + D/2] sin a
///   y[.., n, i + D/2]   = x[.., n, i] sin a + x[.., n, i + D/2] cos a
/// or by -a, which is the inverse and so the gradient: dx = rotate(dy, inverse). The source pairs
/// neighbouring channels, which is the same up to an order of the projections' rows; halves keep
/// loads contiguous. ShapeError for odd D. Cost: one pass over x.
struct Rotate {
  RealView y;                        // [B, H, N, D]  written; may be x
  ConstRealView x;                   // [B, H, N, D]  stored as y
  View<const float> cosines, sines;  // [N, D / 2]    of rotary_angles
  bool inverse = false;
};
void rotate(const Stream&, const Rotate&);
namespace cpu {
void rotate(const Stream&, const Rotate&);
}
namespace cuda {
void rotate(const Stream&, const Rotate&);
}

}  // namespace stipple::kernels
