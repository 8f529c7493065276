// SPDX-License-Identifier: Apache-2.0
// Loss of numbers that are to be met, with its gradient in one pass.
#pragma once

#include "core/stream.h"
#include "core/view.h"

namespace stipple::kernels {

/// Per row r whose target is a number: loss = (y - target)^2; dy = 2 (y - target) scale. Rows whose
/// target is NaN are ignored: no loss, zero gradient. dy may alias y. The sum runs in double in an
/// order fixed per backend. `scale` is 1 / (labels of the whole global batch), read on the device.
/// For a number per example, not per token: on CUDA one block does all.
struct SquaredError {
  View<float> dy{};          // [R]  written; empty: not wanted
  View<double> loss_sum;     // [1]  += sum of losses, unscaled
  View<int64_t> count;       // [1]  += rows with a target
  View<const float> y;       // [R]
  View<const float> target;  // [R]
  View<const float> scale;   // [1]
};
void squared_error(const Stream&, const SquaredError&);
namespace cpu {
void squared_error(const Stream&, const SquaredError&);
}
namespace cuda {
void squared_error(const Stream&, const SquaredError&);
}

}  // namespace stipple::kernels
