// SPDX-License-Identifier: Apache-2.0
#include "kernels/squared_error.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/arrays.h"
#include "tests/support/devices.h"
#include "tests/support/op_checks.h"

namespace stipple::kernels {
namespace {

using test::Array;
using test::DeviceMemory;
using test::name_of;
using test::random_normal;
using test::test_devices;

enum class Gradient : uint8_t { kApart, kInPlace, kNone };

/// Every fifth row has no target.
struct Operands {
  Array<float> y, target, dy;
  Array<double> loss{{1}, {1.5}};
  Array<int64_t> count{{1}, {200}};
  Array<float> scale{{1}, {0.25f}};
  explicit Operands(int64_t rows)
      : y(random_normal({rows}, 1, 3.0)), target(random_normal({rows}, 2, 3.0)), dy({rows}) {
    for (int64_t r = 3; r < rows; r += 5) target[r] = std::nanf("");
  }

  void run(Device device, Gradient gradient = Gradient::kApart) {
    DeviceMemory memory(device);
    const View<float> from = memory.put(y), apart = memory.fresh<float>(y.shape());
    const View<float> to = gradient == Gradient::kInPlace ? from : apart;
    const View<double> loss_sum = memory.put(loss);
    const View<int64_t> counted = memory.put(count);
    squared_error(memory.stream(), {.dy = gradient == Gradient::kNone ? View<float>{} : to,
                                    .loss_sum = loss_sum,
                                    .count = counted,
                                    .y = from,
                                    .target = memory.put(target),
                                    .scale = memory.put(scale)});
    loss = memory.get(loss_sum);
    count = memory.get(counted);
    if (gradient != Gradient::kNone) dy = memory.get(to);
  }
};

double oracle(const std::vector<double>& y, const Array<float>& target) {
  double loss = 0;
  for (int64_t r = 0; r < target.numel(); ++r) {
    const double error = y[static_cast<size_t>(r)] - static_cast<double>(target[r]);
    if (!std::isnan(target[r])) loss += error * error;
  }
  return loss;
}

TEST(SquaredError, AddsTheLossOfRowsThatHaveATarget) {
  for (Device device : test_devices()) {
    for (const int64_t rows : {1, 7, 67, 700}) {
      SCOPED_TRACE(testing::Message() << name_of(device) << ", " << rows);
      Operands t(rows);
      const double expected = 1.5 + oracle(test::to_double(t.y), t.target);
      t.run(device);
      EXPECT_NEAR(t.loss[0], expected, 1e-6 * expected);
      EXPECT_EQ(t.count[0], 200 + rows - (rows + 1) / 5);
    }
  }
}

TEST(SquaredError, GradientIsTheScaledDerivative) {
  for (Device device : test_devices()) {
    Operands t(13);
    t.run(device);
    test::expect_close(
        t.dy,
        test::central_differences(t.y, [&](const auto& at) { return 0.25 * oracle(at, t.target); }),
        1e-5);
    EXPECT_EQ(t.dy[3], 0.0f) << "a row without a target";
    EXPECT_EQ(t.dy[8], 0.0f);
  }
}

TEST(SquaredError, GradientMayOverwriteTheNumbersOrBeLeftOut) {
  for (Device device : test_devices()) {
    Operands t(300), in_place(300), without(300);
    t.run(device);
    in_place.run(device, Gradient::kInPlace);
    EXPECT_EQ(in_place.dy.values(), t.dy.values());
    without.run(device, Gradient::kNone);
    EXPECT_EQ(without.loss[0], t.loss[0]);
  }
}

TEST(SquaredError, RepeatsItsBits) {
  for (Device device : test_devices()) {
    Operands first(700), second(700);
    first.run(device);
    second.run(device);
    EXPECT_EQ(first.loss[0], second.loss[0]);
    EXPECT_EQ(first.dy.values(), second.dy.values());
  }
}

TEST(SquaredError, RefusesShapesThatDoNotFit) {
  Operands t(4);
  Array<float> wrong({3});
  const SquaredError good{.dy = t.dy,
                          .loss_sum = t.loss,
                          .count = t.count,
                          .y = t.y,
                          .target = t.target,
                          .scale = t.scale};
  const auto expect_refused = [&](auto member) {
    SquaredError args = good;
    args.*member = wrong;
    EXPECT_THROW(squared_error(Stream(kMetaDevice), args), ShapeError);
  };
  squared_error(Stream(kMetaDevice), good);
  expect_refused(&SquaredError::dy);
  expect_refused(&SquaredError::y);
  expect_refused(&SquaredError::target);
  expect_refused(&SquaredError::scale);
}

}  // namespace
}  // namespace stipple::kernels
