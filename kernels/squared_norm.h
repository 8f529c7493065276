// SPDX-License-Identifier: Apache-2.0
// The squared norm of a flat array, for clipping and for telling whether it is finite.
#pragma once

#include "core/arena.h"
#include "core/stream.h"
#include "core/view.h"

namespace stipple::kernels {

/// sum[0] = sum of x^2, accumulated in double over fixed runs of 4096 elements and a fixed tree
/// over the runs: the same bits for any number of threads. A NaN or infinity anywhere makes the sum
/// non-finite.
struct SquaredNorm {
  View<double> sum;     // [1]  written
  View<const float> x;  // [N]
  Arena* scratch = nullptr;
};
void squared_norm(const Stream&, const SquaredNorm&);
namespace cpu {
void squared_norm(const Stream&, const SquaredNorm&);
}
namespace cuda {
void squared_norm(const Stream&, const SquaredNorm&);
}

}  // namespace stipple::kernels
