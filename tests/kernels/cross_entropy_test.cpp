// SPDX-License-Identifier: Apache-2.0
#include "kernels/cross_entropy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "tests/support/arrays.h"
#include "tests/support/devices.h"
#include "tests/support/op_checks.h"

namespace stipple::kernels {
namespace {

using test::Array;
using test::DeviceMemory;
using test::expect_close;
using test::name_of;
using test::random_normal;
using test::test_devices;

enum class Gradient : uint8_t { kApart, kInPlace, kNone };

struct Operands {
  Array<float> logits, dlogits;
  Array<int32_t> labels, prediction;
  Array<double> loss{{1}};
  Array<int64_t> correct{{1}}, count{{1}};
  Array<float> scale{{1}, {0.25f}};
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
  CrossEntropy args(Arena& scratch) {
    return {.dlogits = dlogits,
            .loss_sum = loss,
            .correct = correct,
            .count = count,
            .prediction = prediction,
            .logits = logits,
            .labels = labels,
            .scale = scale,
            .scratch = &scratch};
  }

  void run(Device device, Gradient gradient = Gradient::kApart) {
    DeviceMemory memory(device);
    CrossEntropy op = args(memory.scratch());
    const View<float> from = memory.put(logits);
    const View<float> to =
        gradient == Gradient::kInPlace ? from : memory.fresh<float>(logits.shape());
    op.dlogits = gradient == Gradient::kNone ? View<float>{} : to;
    op.loss_sum = memory.put(loss);
    op.correct = memory.put(correct);
    op.count = memory.put(count);
    op.prediction =
        gradient == Gradient::kNone ? View<int32_t>{} : memory.fresh<int32_t>(prediction.shape());
    op.logits = from;
    op.labels = memory.put(labels);
    op.scale = memory.put(scale);
    cross_entropy(memory.stream(), op);
    loss = memory.get(op.loss_sum);
    correct = memory.get(op.correct);
    count = memory.get(op.count);
    if (gradient == Gradient::kNone) return;
    dlogits = memory.get(op.dlogits);
    prediction = memory.get(op.prediction);
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

void expect_oracle(Device device, int64_t rows, int64_t classes) {
  SCOPED_TRACE(testing::Message() << name_of(device) << ", " << rows << " x " << classes);
  Operands t(rows, classes);
  t.loss[0] = 1.5;
  t.correct[0] = 100;
  t.count[0] = 200;
  t.run(device);
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

TEST(CrossEntropy, MatchesOracleForOddSizes) {
  for (Device device : test_devices()) {
    for (const auto [rows, classes] :
         {std::array<int64_t, 2>{1, 1}, {7, 10}, {67, 3}, {5, 2003}, {2100, 2}}) {
      expect_oracle(device, rows, classes);
    }
  }
}

TEST(CrossEntropy, GradientIsTheScaledDerivative) {
  for (Device device : test_devices()) {
    for (int64_t classes : {11, 45}) {
      Operands t(7, classes);
      t.run(device);
      expect_close(
          t.dlogits,
          test::central_differences(
              t.logits, [&](const auto& at) { return 0.25 * oracle(at, t.labels, classes); }),
          1e-5);
    }
  }
}

TEST(CrossEntropy, IgnoredRowsHaveExactlyZeroGradient) {
  for (Device device : test_devices()) {
    Operands t(4, 3);
    ASSERT_EQ(t.labels[3], -1);
    t.run(device);
    for (int64_t c = 0; c < 3; ++c) EXPECT_EQ(t.dlogits[9 + c], 0.0f);
    EXPECT_EQ(t.count[0], 3);
  }
}

TEST(CrossEntropy, LowestIndexWinsATie) {
  for (Device device : test_devices()) {
    Operands t(2, 70);
    t.logits.fill(1.0f);
    for (int64_t c : {34, 50, 66}) t.logits[c] = 2.0f;
    t.labels[0] = 50;
    t.labels[1] = 0;
    t.run(device);
    EXPECT_EQ(t.prediction[0], 34) << name_of(device);
    EXPECT_EQ(t.prediction[1], 0) << name_of(device);
    EXPECT_EQ(t.correct[0], 1);
  }
}

TEST(CrossEntropy, StaysFiniteForHugeLogits) {
  for (Device device : test_devices()) {
    Operands t(1, 3);
    t.logits.values() = {1e30f, -1e30f, 0};
    t.labels[0] = 0;
    t.run(device);
    EXPECT_EQ(t.loss[0], 0.0);
    EXPECT_NEAR(t.dlogits[0], 0.0, 1e-7);
  }
}

TEST(CrossEntropy, NanLogitsGiveANanLossAndARealClass) {
  for (Device device : test_devices()) {
    for (int64_t nans : {1, 2, 3}) {
      Operands t(1, 3);
      for (int64_t c = 3 - nans; c < 3; ++c) t.logits[c] = std::nanf("");
      t.labels[0] = 0;
      t.run(device);
      EXPECT_TRUE(std::isnan(t.loss[0]));
      EXPECT_GE(t.prediction[0], 0);
      EXPECT_LT(t.prediction[0], 3);
    }
  }
}

TEST(CrossEntropy, GradientMayOverwriteTheLogitsOrBeLeftOut) {
  for (Device device : test_devices()) {
    Operands t(70, 19), in_place(70, 19), without(70, 19);
    t.run(device);
    in_place.run(device, Gradient::kInPlace);
    EXPECT_EQ(in_place.dlogits.values(), t.dlogits.values());
    without.run(device, Gradient::kNone);
    EXPECT_EQ(without.loss[0], t.loss[0]);
  }
}

TEST(CrossEntropy, TellsTheLossOfEachRowThatHasALabel) {
  for (Device device : test_devices()) {
    SCOPED_TRACE(name_of(device));
    Operands t(67, 11);
    DeviceMemory memory(device);
    CrossEntropy op = t.args(memory.scratch());
    op.dlogits = {};
    op.prediction = {};
    op.loss_sum = memory.put(t.loss);
    op.correct = memory.put(t.correct);
    op.count = memory.put(t.count);
    op.logits = memory.put(t.logits);
    op.labels = memory.put(t.labels);
    op.scale = memory.put(t.scale);
    op.row_loss = memory.fresh<float>(t.labels.shape());
    cross_entropy(memory.stream(), op);
    const Array<float> losses = memory.get(op.row_loss);
    const std::vector<double> logits = test::to_double(t.logits);
    for (int64_t r = 0; r < 67; ++r) {
      const double expected =
          t.labels[r] < 0 ? 0 : row_loss(&logits[static_cast<size_t>(r * 11)], 11, t.labels[r]);
      EXPECT_NEAR(losses[r], expected, 2e-6) << "row " << r;
    }
  }
}

TEST(LossByPlace, AddsRowsOfEachPlaceOfABlock) {
  constexpr int64_t kRows = 83, kFirst = 29, kSequence = 20;
  const Array<float> losses = random_normal({kRows}, 4);
  Array<int32_t> labels({kRows});
  for (int64_t r = 0; r < kRows; ++r) labels[r] = r % 7 == 2 ? -1 : 1;
  for (Device device : test_devices()) {
    for (const auto [places, block] : {std::array<int64_t, 2>{1, 5}, {4, 6}, {8, 3}, {32, 64}}) {
      SCOPED_TRACE(testing::Message() << name_of(device) << ", " << places << " of " << block);
      DeviceMemory memory(device);
      Array<double> expected({places}), sums({places});
      Array<int64_t> expected_count({places}), counts({places});
      expected.fill(0.5), sums.fill(0.5), expected_count.fill(3), counts.fill(3);
      for (int64_t r = 0; r < kRows; ++r) {
        if (labels[r] < 0) continue;
        const int64_t in_block = (kFirst + r) % kSequence % block;
        const auto place = static_cast<int64_t>(
            std::floor(static_cast<double>(in_block * places) / static_cast<double>(block)));
        expected[place] += static_cast<double>(losses[r]);
        ++expected_count[place];
      }
      const LossByPlace op{.loss_sum = memory.put(sums),
                           .count = memory.put(counts),
                           .row_loss = memory.put(losses),
                           .labels = memory.put(labels),
                           .first_row = kFirst,
                           .sequence = kSequence,
                           .block = block};
      loss_by_place(memory.stream(), op);
      sums = memory.get(op.loss_sum);
      counts = memory.get(op.count);
      for (int64_t p = 0; p < places; ++p) {
        EXPECT_NEAR(sums[p], expected[p], 1e-12);
        EXPECT_EQ(counts[p], expected_count[p]);
      }
    }
  }
}

TEST(CrossEntropy, HasTheSameBitsForAnyThreads) {
  test::expect_same_bits_for_any_threads([](const Stream& stream, Arena& scratch) {
    Operands t(2500, 11);
    cross_entropy(stream, t.args(scratch));
    std::vector<double> all = test::to_double(t.dlogits);
    all.push_back(t.loss[0]);
    return all;
  });
}

TEST(CrossEntropy, RepeatsItsBits) {
  for (Device device : test_devices()) {
    Operands first(300, 5), second(300, 5);
    first.run(device);
    second.run(device);
    EXPECT_EQ(first.loss[0], second.loss[0]);
    EXPECT_EQ(first.dlogits.values(), second.dlogits.values());
  }
}

TEST(CrossEntropy, PlansItsScratch) {
  Operands t(100, 3);
  test::expect_meta_counts_scratch(
      [&](const Stream& stream, Arena& scratch) { cross_entropy(stream, t.args(scratch)); });
}

TEST(CrossEntropy, RefusesWrongShapesLabelsAndMissingScratch) {
  Operands t(4, 3);
  Arena scratch("scratch", kCpuDevice, test::kScratchBytes);
  Array<float> wrong({3, 4});
  CrossEntropy args = t.args(scratch);
  args.dlogits = wrong;
  EXPECT_THROW(cross_entropy(Stream(kMetaDevice), args), ShapeError);
  args = t.args(scratch);
  args.scale = {};
  EXPECT_THROW(cross_entropy(Stream(kMetaDevice), args), ShapeError);
  args = t.args(scratch);
  args.scratch = nullptr;
  EXPECT_THROW(cross_entropy(Stream(kCpuDevice), args), Error);
  t.labels[2] = 3;
  EXPECT_THROW(cross_entropy(Stream(kCpuDevice), t.args(scratch)), Error);
}

}  // namespace
}  // namespace stipple::kernels
