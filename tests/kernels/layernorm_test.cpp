// SPDX-License-Identifier: Apache-2.0
#include "kernels/layernorm.h"

#include <gtest/gtest.h>

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
using test::expect_stored;
using test::name_of;
using test::random_normal;
using test::rounded;
using test::test_devices;
using test::test_storages;

constexpr float kEps = 1e-5f;

struct LayerNormOperands {
  Array<float> x, weight, bias, dy, y, mean, rstd, dx, dweight, dbias;
  LayerNormOperands(int64_t rows, int64_t channels)
      : x(random_normal({rows, channels}, 1, 2.0)),
        weight(random_normal({channels}, 2)),
        bias(random_normal({channels}, 3)),
        dy(random_normal({rows, channels}, 4)),
        y({rows, channels}),
        mean({rows}),
        rstd({rows}),
        dx({rows, channels}),
        dweight(random_normal({channels}, 5)),
        dbias(random_normal({channels}, 6)) {
    for (float& value : x.values()) value += 3.0f;
  }
  LayerNorm forward() {
    return {
        .y = y, .mean = mean, .rstd = rstd, .x = x, .weight = weight, .bias = bias, .eps = kEps};
  }
  LayerNormBackward backward(Arena* scratch) {
    return {.dx = dx,
            .dweight = dweight,
            .dbias = dbias,
            .dy = dy,
            .x = x,
            .weight = weight,
            .mean = mean,
            .rstd = rstd,
            .scratch = scratch};
  }

  /// y is stored so.
  void normalize(Device device, Precision storage = Precision::kFp32) {
    DeviceMemory memory(device);
    LayerNorm op = forward();
    op.y = memory.fresh(y.shape(), storage);
    op.mean = memory.fresh<float>(mean.shape());
    op.rstd = memory.fresh<float>(rstd.shape());
    op.x = memory.put(x);
    op.weight = memory.put(weight);
    op.bias = memory.put(bias);
    layernorm(memory.stream(), op);
    y = memory.get(op.y), mean = memory.get(op.mean), rstd = memory.get(op.rstd);
  }
  /// Into dx; in place: over dy, and dx is a copy of that. dx and dy are stored so.
  void add_gradients(Device device, bool is_in_place = false,
                     Precision storage = Precision::kFp32) {
    DeviceMemory memory(device);
    LayerNormBackward op = backward(&memory.scratch());
    const RealView from = memory.put(dy, storage);
    op.dx = is_in_place ? from : memory.fresh(dx.shape(), storage);
    op.dweight = memory.put(dweight);
    op.dbias = memory.put(dbias);
    op.dy = from;
    op.x = memory.put(x);
    op.weight = memory.put(weight);
    op.mean = memory.put(mean);
    op.rstd = memory.put(rstd);
    layernorm_backward(memory.stream(), op);
    dx = memory.get(op.dx), dweight = memory.get(op.dweight), dbias = memory.get(op.dbias);
  }
};

std::vector<double> oracle(const std::vector<double>& x, const std::vector<double>& weight,
                           const std::vector<double>& bias) {
  const size_t channels = weight.size();
  std::vector<double> y(x.size());
  for (size_t begin = 0; begin < x.size(); begin += channels) {
    double mean = 0, variance = 0;
    for (size_t c = 0; c < channels; ++c) mean += x[begin + c];
    mean /= static_cast<double>(channels);
    for (size_t c = 0; c < channels; ++c) variance += std::pow(x[begin + c] - mean, 2);
    variance /= static_cast<double>(channels);
    for (size_t c = 0; c < channels; ++c) {
      y[begin + c] =
          (x[begin + c] - mean) / std::sqrt(variance + double{kEps}) * weight[c] + bias[c];
    }
  }
  return y;
}

TEST(LayerNorm, MatchesOracleForOddSizes) {
  for (Device device : test_devices()) {
    for (const auto [rows, channels] :
         {std::array<int64_t, 2>{1, 1}, {1, 5}, {7, 16}, {131, 64}, {67, 101}, {3, 516}}) {
      SCOPED_TRACE(testing::Message() << name_of(device) << ", " << rows << " x " << channels);
      for (Precision storage : test_storages(device)) {
        LayerNormOperands t(rows, channels);
        t.normalize(device, storage);
        Array<double> expected(t.y.shape());
        expected.values() =
            oracle(test::to_double(t.x), test::to_double(t.weight), test::to_double(t.bias));
        expect_stored(t.y, expected, storage, 2e-6);
      }
    }
  }
}

TEST(LayerNorm, KeepsItsPrecisionWhenTheMeanIsLarge) {
  for (Device device : test_devices()) {
    LayerNormOperands t(3, 64);
    for (float& value : t.x.values()) value += 1000.0f;
    t.normalize(device);
    Array<double> expected(t.y.shape());
    expected.values() =
        oracle(test::to_double(t.x), test::to_double(t.weight), test::to_double(t.bias));
    expect_close(t.y, expected, 2e-4);
  }
}

TEST(LayerNorm, RowsOfEqualValuesGiveTheBias) {
  for (Device device : test_devices()) {
    LayerNormOperands t(2, 8);
    t.x.fill(4.0f);
    t.normalize(device);
    for (int64_t i = 0; i < t.y.numel(); ++i) EXPECT_EQ(t.y[i], t.bias[i % 8]);
  }
}

void expect_derivative(Device device, int64_t rows, int64_t channels) {
  SCOPED_TRACE(testing::Message() << name_of(device) << ", " << rows << " x " << channels);
  LayerNormOperands t(rows, channels);
  const Array<float> dweight_before = t.dweight, dbias_before = t.dbias;
  t.normalize(device);
  t.add_gradients(device);
  const auto x = test::to_double(t.x), w = test::to_double(t.weight), b = test::to_double(t.bias);
  expect_close(t.dx,
               test::central_differences(
                   t.x, [&](const auto& at) { return test::dot(t.dy, oracle(at, w, b)); }),
               1e-5);
  auto dweight = test::central_differences(
      t.weight, [&](const auto& at) { return test::dot(t.dy, oracle(x, at, b)); });
  for (int64_t i = 0; i < channels; ++i) dweight[i] += dweight_before[i];
  expect_close(t.dweight, dweight, 1e-5);
  auto dbias = test::central_differences(
      t.bias, [&](const auto& at) { return test::dot(t.dy, oracle(x, w, at)); });
  for (int64_t i = 0; i < channels; ++i) dbias[i] += dbias_before[i];
  expect_close(t.dbias, dbias, 1e-5);
}

TEST(LayerNorm, BackwardIsTheDerivativeAndAddsToParameterGradients) {
  for (Device device : test_devices()) {
    expect_derivative(device, 5, 19);
    expect_derivative(device, 3, 20);
  }
}

TEST(LayerNorm, BackwardOnEveryDeviceIsThatOfTheCpu) {
  // More rows than a run, and channels that one block takes in several passes.
  for (const auto [rows, channels] :
       {std::array<int64_t, 2>{70, 3}, {130, 64}, {65, 37}, {3, 1028}, {2, 301}}) {
    LayerNormOperands before(rows, channels);
    before.normalize(kCpuDevice);
    for (Device device : test_devices()) {
      SCOPED_TRACE(testing::Message() << name_of(device) << ", " << rows << " x " << channels);
      for (Precision storage : test_storages(device)) {
        LayerNormOperands expected = before, t = before;
        expected.dy = rounded(before.dy, storage);
        expected.add_gradients(kCpuDevice);
        t.add_gradients(device, false, storage);
        expect_stored(t.dx, expected.dx, storage, 2e-6);
        expect_close(t.dweight, expected.dweight, 2e-6);
        expect_close(t.dbias, expected.dbias, 2e-6);
      }
    }
  }
}

TEST(LayerNorm, BackwardMayOverwriteDy) {
  for (int64_t channels : {37, 36}) {
    for (Device device : test_devices()) {
      for (Precision storage : test_storages(device)) {
        LayerNormOperands t(70, channels);
        t.normalize(device);
        LayerNormOperands in_place = t;
        t.add_gradients(device, false, storage);
        in_place.add_gradients(device, true, storage);
        EXPECT_EQ(in_place.dx.values(), t.dx.values());
        EXPECT_EQ(in_place.dweight.values(), t.dweight.values());
        EXPECT_EQ(in_place.dbias.values(), t.dbias.values());
      }
    }
  }
}

void expect_sums_of_rows(Device device, int64_t rows) {
  SCOPED_TRACE(testing::Message() << name_of(device) << ", " << rows);
  LayerNormOperands t(rows, 3);
  t.normalize(device);
  Array<double> dweight(t.dweight.shape()), dbias(t.dbias.shape());
  for (int64_t c = 0; c < 3; ++c) {
    dweight[c] = t.dweight[c];
    dbias[c] = t.dbias[c];
    for (int64_t row = 0; row < rows; ++row) {
      const double dy = t.dy[row * 3 + c];
      dweight[c] += dy * (double{t.x[row * 3 + c]} - t.mean[row]) * t.rstd[row];
      dbias[c] += dy;
    }
  }
  t.add_gradients(device);
  expect_close(t.dweight, dweight, 5e-6);
  expect_close(t.dbias, dbias, 5e-6);
}

TEST(LayerNorm, BackwardSumsManyRows) {
  for (Device device : test_devices()) {
    expect_sums_of_rows(device, 2500);
    expect_sums_of_rows(device, 8300);  // partial sums in two stages
  }
}

TEST(LayerNorm, HasTheSameBitsForAnyThreads) {
  test::expect_same_bits_for_any_threads([](const Stream& stream, Arena& scratch) {
    LayerNormOperands t(777, 41);
    layernorm(stream, t.forward());
    layernorm_backward(stream, t.backward(&scratch));
    std::vector<float> all = t.y.values();
    for (const auto* part : {&t.mean, &t.rstd, &t.dx, &t.dweight, &t.dbias}) {
      all.insert(all.end(), part->values().begin(), part->values().end());
    }
    return all;
  });
}

TEST(LayerNorm, PlansItsScratch) {
  LayerNormOperands t(300, 33);
  test::expect_meta_counts_scratch([&](const Stream& stream, Arena& scratch) {
    layernorm_backward(stream, t.backward(&scratch));
  });
}

TEST(LayerNorm, RefusesShapesThatDoNotFit) {
  LayerNormOperands t(4, 6);
  Array<float> wrong({5});
  LayerNorm forward = t.forward();
  forward.mean = wrong;
  EXPECT_THROW(layernorm(Stream(kCpuDevice), forward), ShapeError);
  Arena scratch("scratch", kCpuDevice, test::kScratchBytes);
  LayerNormBackward backward = t.backward(&scratch);
  backward.dbias = wrong;
  EXPECT_THROW(layernorm_backward(Stream(kMetaDevice), backward), ShapeError);
  EXPECT_THROW(layernorm_backward(Stream(kCpuDevice), t.backward(nullptr)), Error);
  Array<bf16> half(t.dy.shape());
  backward = t.backward(&scratch);
  backward.dy = half;
  EXPECT_THROW(layernorm_backward(Stream(kMetaDevice), backward), Error);
}

}  // namespace
}  // namespace stipple::kernels
