// SPDX-License-Identifier: Apache-2.0
// The optimizer's arithmetic over flat arenas.
#pragma once

#include "core/arena.h"
#include "core/range.h"
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
/// partials: [runs of 4096]
void squared_norm(const Stream&, const SquaredNorm&, View<double> partials);
}  // namespace cpu

/// One AdamW update of a run of parameters with equal decay.
///   g = grad * grad_scale;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;
///   x -= lr (m / c1 / (sqrt(v / c2) + eps) + decay x),   c1 = 1 - prod b1(s),  c2 = 1 - b2^step
/// Source: Loshchilov, Hutter (arXiv 1711.05101), eps outside the root as in PyTorch. With a cycled
/// beta1 the bias correction c1 uses beta1^step of the present beta1, as PyTorch does. Arithmetic
/// in float; c1, c2 come in double from the caller.
struct AdamW {
  View<float> x, m, v;     // [N]  in place
  View<const float> grad;  // [N]
  float learning_rate = 0;
  float beta1 = 0.9f;
  float beta2 = 0.999f;
  float eps = 1e-8f;
  float weight_decay = 0;
  float grad_scale = 1;  ///< the clipping factor
  double bias_correction1 = 1;
  double bias_correction2 = 1;
};
void adamw(const Stream&, const AdamW&);
namespace cpu {
void adamw(const Stream&, const AdamW&);
}

}  // namespace stipple::kernels
