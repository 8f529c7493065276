// SPDX-License-Identifier: Apache-2.0
#include "kernels/cross_entropy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "tests/support/arrays.h"
#include "tests/support/op_checks.h"

namespace stipple::kernels {
namespace {

using test::Array;
using test::expect_close;
using test::random_normal;

struct Operands {
  Array<float> logits, dlogits;
  Array<int32_t> labels, prediction;
  Array<double> loss{{1}};
  Array<int64_t> correct{{1}}, count{{1}};
  Operands(int64_t rows, int64_t classes)
      : logits(random_normal({rows, classes}, 1, 3.0)),
        dlogits({rows, classes}),
        labels({rows}),
        prediction({rows}) {
    for (int64_t r = 0; r < rows; ++r) {
      labels[r] = r % 5 == 3 ? -1 : static_cast<int32_t>(r * 7 % classes);
    }
    dlogits.fill(9.0f);
  }
  CrossEntropy args() {
    return {.dlogits = dlogits,
            .loss_sum = loss,
            .correct = correct,
            .count = count,
            .prediction = prediction,
            .logits = logits,
            .labels = labels,
            .scale = 0.25f};
  }
};

double row_loss(const double* logits, int64_t classes, int32_t label) {
  const double largest = *std::max_element(logits, logits + classes);
  double sum = 0;
  for (int64_t c = 0; c < classes; ++c) sum += std::exp(logits[c] - largest);
  return std::log(sum) + largest - logits[label];
}

double oracle(const std::vector<double>& logits, const Array<int32_t>& labels, int64_t classes) {
  double loss = 0;
  for (int64_t r = 0; r < labels.numel(); ++r) {
    if (labels[r] >= 0) loss += row_loss(logits.data() + r * classes, classes, labels[r]);
  }
  return loss;
}

TEST(CrossEntropy, MatchesOracleForOddSizes) {
  for (const auto [rows, classes] :
       {std::array<int64_t, 2>{1, 1}, {7, 10}, {67, 3}, {5, 2003}, {2100, 11}}) {
    SCOPED_TRACE(testing::Message() << rows << " x " << classes);
    Operands t(rows, classes);
    t.loss[0] = 1.5;
    t.correct[0] = 100;
    t.count[0] = 200;
    cross_entropy(Stream(kCpuDevice), t.args());
    const double expected = 1.5 + oracle(test::to_double(t.logits), t.labels, classes);
    EXPECT_NEAR(t.loss[0], expected, 2e-7 * static_cast<double>(rows) * 10);
    int64_t correct = 100, count = 200;
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = &t.logits[r * classes];
      const auto best = static_cast<int32_t>(std::max_element(row, row + classes) - row);
      EXPECT_EQ(t.prediction[r], best);
      correct += best == t.labels[r] ? 1 : 0;
      count += t.labels[r] >= 0 ? 1 : 0;
    }
    EXPECT_EQ(t.correct[0], correct);
    EXPECT_EQ(t.count[0], count);
  }
}

TEST(CrossEntropy, GradientIsTheScaledDerivative) {
  Operands t(7, 11);
  cross_entropy(Stream(kCpuDevice), t.args());
  expect_close(t.dlogits,
               test::central_differences(
                   t.logits, [&](const auto& at) { return 0.25 * oracle(at, t.labels, 11); }),
               1e-5);
}

TEST(CrossEntropy, IgnoredRowsHaveExactlyZeroGradient) {
  Operands t(4, 3);
  ASSERT_EQ(t.labels[3], -1);
  cross_entropy(Stream(kCpuDevice), t.args());
  for (int64_t c = 0; c < 3; ++c) EXPECT_EQ(t.dlogits[9 + c], 0.0f);
  EXPECT_EQ(t.count[0], 3);
}

TEST(CrossEntropy, LowestIndexWinsATie) {
  Operands t(1, 4);
  t.logits.values() = {1, 2, 2, 2};
  t.labels[0] = 2;
  cross_entropy(Stream(kCpuDevice), t.args());
  EXPECT_EQ(t.prediction[0], 1);
  EXPECT_EQ(t.correct[0], 0);
}

TEST(CrossEntropy, StaysFiniteForHugeLogits) {
  Operands t(1, 3);
  t.logits.values() = {1e30f, -1e30f, 0};
  t.labels[0] = 0;
  cross_entropy(Stream(kCpuDevice), t.args());
  EXPECT_EQ(t.loss[0], 0.0);
  EXPECT_NEAR(t.dlogits[0], 0.0, 1e-7);
}

TEST(CrossEntropy, NanLogitsGiveANanLoss) {
  Operands t(1, 3);
  t.logits[1] = std::nanf("");
  t.labels[0] = 0;
  cross_entropy(Stream(kCpuDevice), t.args());
  EXPECT_TRUE(std::isnan(t.loss[0]));
}

TEST(CrossEntropy, GradientMayOverwriteTheLogitsOrBeLeftOut) {
  Operands t(70, 19), in_place(70, 19), without(70, 19);
  cross_entropy(Stream(kCpuDevice), t.args());
  CrossEntropy args = in_place.args();
  args.dlogits = in_place.logits;
  cross_entropy(Stream(kCpuDevice), args);
  EXPECT_EQ(in_place.logits.values(), t.dlogits.values());
  args = without.args();
  args.dlogits = {};
  args.prediction = {};
  cross_entropy(Stream(kCpuDevice), args);
  EXPECT_EQ(without.loss[0], t.loss[0]);
}

TEST(CrossEntropy, HasTheSameBitsForAnyThreads) {
  test::expect_same_bits_for_any_threads([](const Stream& stream, Arena&) {
    Operands t(2500, 11);
    cross_entropy(stream, t.args());
    std::vector<double> all = test::to_double(t.dlogits);
    all.push_back(t.loss[0]);
    return all;
  });
}

TEST(CrossEntropy, RefusesWrongShapesAndLabels) {
  Operands t(4, 3);
  Array<float> wrong({3, 4});
  CrossEntropy args = t.args();
  args.dlogits = wrong;
  EXPECT_THROW(cross_entropy(Stream(kMetaDevice), args), ShapeError);
  t.labels[2] = 3;
  EXPECT_THROW(cross_entropy(Stream(kCpuDevice), t.args()), Error);
}

}  // namespace
}  // namespace stipple::kernels
