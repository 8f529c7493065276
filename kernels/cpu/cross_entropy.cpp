// SPDX-License-Identifier: Apache-2.0
#include "kernels/cross_entropy.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"
#include "kernels/cpu/sums.h"
#include "kernels/math/exponential.h"
#include "kernels/runs.h"

namespace stipple::kernels::cpu {
namespace {

constexpr int64_t kRowRun = 64;
/// Rows whose losses wait on the stack to be added in order.
constexpr int64_t kBlock = 2048;

struct RowResult {
  double loss;
  bool is_correct;
};

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

RowResult row_loss(const CrossEntropy& args, int64_t row) {
  const int64_t classes = args.logits.shape[1];
  const int32_t label = args.labels[row];
  const float* logits = args.logits.data + row * classes;
  float* dlogits = args.dlogits.empty() ? nullptr : args.dlogits.data + row * classes;
  STIPPLE_CHECK(label < classes, "cross_entropy: label ", label, " of row ", row,
                " is not one of the ", classes, " classes");
  const int64_t best = std::max_element(logits, logits + classes) - logits;
  if (!args.prediction.empty()) args.prediction[row] = static_cast<int32_t>(best);
  if (label < 0) {
    if (dlogits != nullptr) std::fill_n(dlogits, classes, 0.0f);
    return {.loss = 0.0, .is_correct = false};
  }
  const float largest = logits[best];
  double sum = 0;
  vectorized<sum_exponentials>(&sum, logits, largest, classes);
  const double loss = std::log(sum) + static_cast<double>(largest) - logits[label];
  if (dlogits != nullptr) {
    vectorized<scaled_softmax>(dlogits, logits, largest, static_cast<float>(args.scale / sum),
                               classes);
    dlogits[label] -= args.scale;
  }
  return {.loss = loss, .is_correct = best == label};
}

}  // namespace

void cross_entropy(const Stream& stream, const CrossEntropy& args) {
  const int64_t rows = args.logits.shape[0];
  std::array<RowResult, kBlock> results;
  for (int64_t begin = 0; begin < rows; begin += kBlock) {
    const int64_t block = std::min(kBlock, rows - begin);
    stream.parallel_for(num_runs(block, kRowRun), [&](int64_t i, int) {
      const Range run = nth_run(i, block, kRowRun);
      for (int64_t row = run.begin; row < run.end; ++row) {
        results[static_cast<size_t>(row)] = row_loss(args, begin + row);
      }
    });
    for (int64_t row = 0; row < block; ++row) {
      const RowResult& result = results[static_cast<size_t>(row)];
      args.loss_sum[0] += result.loss;
      args.correct[0] += result.is_correct ? 1 : 0;
      args.count[0] += args.labels[begin + row] >= 0 ? 1 : 0;
    }
  }
}

}  // namespace stipple::kernels::cpu
