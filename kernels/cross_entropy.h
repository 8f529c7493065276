// SPDX-License-Identifier: Apache-2.0
// Classification loss with its gradient in one pass.
#pragma once

#include "core/arena.h"
#include "core/stream.h"
#include "core/view.h"

namespace stipple::kernels {

/// Per row r with label >= 0: loss = logsumexp(logits) - logits[label]; dlogits = (softmax -
/// onehot) * scale. Rows with a negative label are ignored: no loss, zero gradient. dlogits may
/// alias logits. The sum over rows runs in double over fixed runs of rows and then over the runs,
/// in an order fixed per backend. `scale` is 1 / (labels of the whole global batch), so gradients
/// of micro-batches and ranks are simply added; it is read on the device, so that a captured step
/// may have another number of labels each time it is replayed. A label that is no class throws
/// Error on the CPU; on CUDA the caller promises that there is none.
struct CrossEntropy {
  View<float> dlogits{};  // [R, C]  written; empty: not wanted
  View<double> loss_sum;  // [1]     += sum of losses, unscaled
  View<int64_t> correct;  // [1]     += rows whose argmax is the label (lowest index wins a tie)
  View<int64_t> count;    // [1]     += rows with a label
  View<int32_t> prediction{};  // [R]     written: argmax; empty: not wanted
  View<float> row_loss{};      // [R]     written: losses, 0 without a label; empty: not wanted
  View<const float> logits;    // [R, C]
  View<const int32_t> labels;  // [R]
  View<const float> scale;     // [1]
  Arena* scratch = nullptr;    ///< partial sums
};
/// The rows of one run.
struct LossPartial {
  double loss = 0;
  int64_t correct = 0;
  int64_t count = 0;
};
void cross_entropy(const Stream&, const CrossEntropy&);
namespace cpu {
void cross_entropy(const Stream&, const CrossEntropy&);
}
namespace cuda {
void cross_entropy(const Stream&, const CrossEntropy&);
}

/// Losses of rows that stand next to each other in sequences, by where they stand in blocks of
/// `block` tokens, a sequence beginning with one: token t of a sequence belongs to place
/// (t % block) P / block, rounded down. Sums are in double, in an order fixed per backend.
struct LossByPlace {
  View<double> loss_sum;       // [P]  +=  P is at most 32
  View<int64_t> count;         // [P]  += rows with a label
  View<const float> row_loss;  // [R]
  View<const int32_t> labels;  // [R]
  int64_t first_row = 0;       ///< the number of row 0 among the rows of all sequences
  int64_t sequence = 1;        ///< rows of a sequence
  int64_t block = 1;
};
inline constexpr int64_t kMostPlaces = 32;
void loss_by_place(const Stream&, const LossByPlace&);
namespace cpu {
void loss_by_place(const Stream&, const LossByPlace&);
}
namespace cuda {
void loss_by_place(const Stream&, const LossByPlace&);
}

}  // namespace stipple::kernels
