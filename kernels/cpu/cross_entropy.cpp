// SPDX-License-Identifier: Apache-2.0
#include "kernels/cross_entropy.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "kernels/cpu/sums.h"
#include "kernels/math/exponential.h"
#include "kernels/runs.h"

namespace stipple::kernels::cpu {
namespace {

STIPPLE_VECTOR_BODY void sum_exponentials(double* sum, const float* x, float largest, int64_t n) {
  *sum = lane_sum<double>(n, [x, largest](int64_t c) {
    return static_cast<double>(math::exponential(x[c] - largest));
  });
}

/// dlogits may be logits itself: each element is read before it is written.
STIPPLE_VECTOR_BODY void scaled_softmax(float* y, const float* x, float largest, float factor,
                                        int64_t n) {
#pragma GCC ivdep
  for (int64_t c = 0; c < n; ++c) y[c] = math::exponential(x[c] - largest) * factor;
}

void add_row(const CrossEntropy& args, int64_t row, LossPartial& sum_of_run) {
  const int64_t classes = args.logits.shape[1];
  const int32_t label = args.labels[row];
  const float* logits = args.logits.data + row * classes;
  float* dlogits = args.dlogits.empty() ? nullptr : args.dlogits.data + row * classes;
  STIPPLE_CHECK(label < classes, "cross_entropy: label ", label, " of row ", row,
                " is not one of the ", classes, " classes");
  const int64_t best = std::max_element(logits, logits + classes) - logits;
  if (!args.prediction.empty()) args.prediction[row] = static_cast<int32_t>(best);
  if (!args.row_loss.empty()) args.row_loss[row] = 0;
  if (label < 0) {
    if (dlogits != nullptr) std::fill_n(dlogits, classes, 0.0f);
    return;
  }
  const float largest = logits[best];
  double sum = 0;
  vectorized<sum_exponentials>(&sum, logits, largest, classes);
  const double loss = std::log(sum) + static_cast<double>(largest) - logits[label];
  if (dlogits != nullptr) {
    const float scale = args.scale[0];
    vectorized<scaled_softmax>(dlogits, logits, largest, static_cast<float>(scale / sum), classes);
    dlogits[label] -= scale;
  }
  if (!args.row_loss.empty()) args.row_loss[row] = static_cast<float>(loss);
  sum_of_run.loss += loss;
  sum_of_run.correct += best == label ? 1 : 0;
  ++sum_of_run.count;
}

}  // namespace

void cross_entropy(const Stream& stream, const CrossEntropy& args) {
  const Arena::Scope scope(*args.scratch);
  const View<LossPartial> partials =
      args.scratch->alloc<LossPartial>({num_runs(args.logits.shape[0], kLossRowRun)});
  stream.parallel_for(partials.numel(), [&](int64_t i, int) {
    const Range run = nth_run(i, args.logits.shape[0], kLossRowRun);
    LossPartial sum;
    for (int64_t row = run.begin; row < run.end; ++row) add_row(args, row, sum);
    partials[i] = sum;
  });
  if (stream.is_plan()) return;
  for (const LossPartial& partial : partials.span()) {
    args.loss_sum[0] += partial.loss;
    args.correct[0] += partial.correct;
    args.count[0] += partial.count;
  }
}

void loss_by_place(const Stream& stream, const LossByPlace& args) {
  if (stream.is_plan()) return;
  const int64_t places = args.loss_sum.numel();
  for (int64_t row = 0; row < args.labels.numel(); ++row) {
    if (args.labels[row] < 0) continue;
    const int64_t token = (args.first_row + row) % args.sequence;
    const int64_t place = token % args.block * places / args.block;
    args.loss_sum[place] += static_cast<double>(args.row_loss[row]);
    ++args.count[place];
  }
}

}  // namespace stipple::kernels::cpu
