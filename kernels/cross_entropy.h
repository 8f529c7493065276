// SPDX-License-Identifier: Apache-2.0
// Classification loss with its gradient in one pass.
#pragma once

#include "core/stream.h"
#include "core/view.h"

namespace stipple::kernels {

/// Per row r with label >= 0: loss = logsumexp(logits) - logits[label]; dlogits = (softmax -
/// onehot) * scale. Rows with a negative label are ignored: no loss, zero gradient. dlogits may
/// alias logits. The sum over rows runs in double, in row order. `scale` is 1 / (labels of the
/// whole global batch), so gradients of micro-batches and ranks are simply added.
struct CrossEntropy {
  View<float> dlogits{};  // [R, C]  written; empty: not wanted
  View<double> loss_sum;  // [1]     += sum of losses, unscaled
  View<int64_t> correct;  // [1]     += rows whose argmax is the label (lowest index wins a tie)
  View<int64_t> count;    // [1]     += rows with a label
  View<int32_t> prediction{};  // [R]     written: argmax; empty: not wanted
  View<const float> logits;    // [R, C]
  View<const int32_t> labels;  // [R]
  float scale = 1.0f;
};
void cross_entropy(const Stream&, const CrossEntropy&);
namespace cpu {
void cross_entropy(const Stream&, const CrossEntropy&);
}

}  // namespace stipple::kernels
