// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numbers>

#include "core/cpu/isa.h"
#include "kernels/math/activation.h"
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
using test::random_uniform;
using test::rounded;
using test::test_devices;
using test::test_storage_pairs;
using test::test_storages;

constexpr std::array kKinds{ActivationKind::kGelu, ActivationKind::kRelu, ActivationKind::kSigmoid,
                            ActivationKind::kTanh};

double normal_cdf(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }

double oracle(ActivationKind kind, double x) {
  switch (kind) {
    case ActivationKind::kGelu:
      return x * normal_cdf(x);
    case ActivationKind::kRelu:
      return std::max(x, 0.0);
    case ActivationKind::kSigmoid:
      return 1 / (1 + std::exp(-x));
    case ActivationKind::kTanh:
      return std::tanh(x);
  }
  return std::numeric_limits<double>::quiet_NaN();
}

/// Calls claim(x) for a dense sweep of [low, high].
template <class Claim>
void sweep(double low, double high, const Claim& claim) {
  constexpr int kPoints = 200000;
  for (int i = 0; i <= kPoints; ++i) {
    claim(static_cast<float>(low + (high - low) * i / kPoints));
  }
}

TEST(ActivationMath, ExponentialIsAccurateOverItsRange) {
  double worst = 0;
  sweep(-87, 88, [&](float x) {
    const double e = std::exp(double{x});
    worst = std::max(worst, std::abs(math::exponential(x) - e) / e);
  });
  EXPECT_LT(worst, 2e-7);
  EXPECT_LT(math::exponential(-1000.0f), 2e-38f);
  EXPECT_TRUE(std::isnan(math::exponential(std::numeric_limits<float>::quiet_NaN())));
}

TEST(ActivationMath, NormalCdfIsAccurateInTheMiddleAndInTheLeftTail) {
  double worst = 0, worst_tail = 0;
  sweep(-12, 12,
        [&](float x) { worst = std::max(worst, std::abs(math::normal(x).cdf - normal_cdf(x))); });
  sweep(-9, 0, [&](float x) {
    worst_tail = std::max(worst_tail, std::abs(math::normal(x).cdf / normal_cdf(x) - 1));
  });
  EXPECT_LT(worst, 1e-7);
  EXPECT_LT(worst_tail, 5e-6);
}

TEST(ActivationMath, SigmoidAndTanhAreAccurateRelativeToTheirValue) {
  double worst_sigmoid = 0, worst_tanh = 0;
  sweep(-20, 20, [&](float x) {
    worst_sigmoid =
        std::max(worst_sigmoid, std::abs(math::sigmoid(x) * (1 + std::exp(-double{x})) - 1));
    if (x != 0.0f) {
      worst_tanh =
          std::max(worst_tanh, std::abs(math::hyperbolic_tangent(x) / std::tanh(double{x}) - 1));
    }
  });
  EXPECT_LT(worst_sigmoid, 4e-7);
  EXPECT_LT(worst_tanh, 4e-7);
  EXPECT_EQ(math::hyperbolic_tangent(0.0f), 0.0f);
}

/// The elements from `first` on, so that arrays may start at any address.
RealView behind(RealView all, int64_t first) {
  auto* from =
      static_cast<std::byte*>(all.data) + static_cast<size_t>(first) * bytes_of(all.precision);
  return {from, {all.numel() - first}, all.precision};
}

Array<float> activate(Device device, ActivationKind kind, const Array<float>& x, int64_t first = 0,
                      Precision storage = Precision::kFp32) {
  DeviceMemory memory(device);
  const RealView from = memory.put(x, storage), to = memory.fresh(x.shape(), storage);
  activation(memory.stream(), {.y = behind(to, first), .x = behind(from, first), .kind = kind});
  return memory.get(behind(to, first));
}

/// storages: of dx and saved, of dy.
Array<float> activate_backward(Device device, ActivationKind kind, const Array<float>& dy,
                               const Array<float>& saved,
                               const std::array<Precision, 2>& storages = {}) {
  DeviceMemory memory(device);
  const RealView dx = memory.fresh(dy.shape(), storages[0]);
  activation_backward(memory.stream(), {.dx = dx,
                                        .dy = memory.put(dy, storages[1]),
                                        .saved = memory.put(saved, storages[0]),
                                        .kind = kind});
  return memory.get(dx);
}

void expect_oracle(Device device, ActivationKind kind, int64_t n, int64_t first) {
  for (Precision storage : test_storages(device)) {
    SCOPED_TRACE(testing::Message() << name_of(device) << ", kind " << static_cast<int>(kind)
                                    << ", " << n << " from " << first);
    const Array<float> x = rounded(random_normal({n + first}, 1, 2.0), storage);
    Array<double> expected({n});
    for (int64_t i = 0; i < n; ++i) expected[i] = oracle(kind, x[first + i]);
    expect_stored(activate(device, kind, x, first, storage), expected, storage, 1e-6);
  }
}

TEST(Activation, MatchesOracleForOddSizesOnEveryDevice) {
  for (Device device : test_devices()) {
    for (ActivationKind kind : kKinds) {
      for (int64_t n : {1, 31, 2051}) expect_oracle(device, kind, n, 0);
    }
  }
}

TEST(Activation, MayStartAtAnyAddress) {
  for (Device device : test_devices()) {
    for (int64_t first : {1, 2, 3, 4}) expect_oracle(device, ActivationKind::kGelu, 301, first);
  }
}

TEST(Activation, MatchesOracleForOddSizesOnEveryInstructionSet) {
  const stipple::cpu::Isa before = stipple::cpu::isa();
  for (stipple::cpu::Isa isa : stipple::cpu::available_isas()) {
    stipple::cpu::set_isa(isa);
    for (ActivationKind kind : kKinds) {
      for (int64_t n : {1, 31, 8209}) {
        SCOPED_TRACE(testing::Message() << stipple::cpu::isa_name(isa) << ", kind "
                                        << static_cast<int>(kind) << ", " << n);
        const Array<float> x = random_normal({n}, 1, 2.0);
        Array<float> y({n});
        Array<double> expected({n});
        for (int64_t i = 0; i < n; ++i) expected[i] = oracle(kind, x[i]);
        activation(Stream(kCpuDevice), {.y = y, .x = x, .kind = kind});
        expect_close(y, expected, 1e-6);
      }
    }
  }
  stipple::cpu::set_isa(before);
}

TEST(Activation, BackwardIsTheDerivative) {
  for (ActivationKind kind : kKinds) {
    const Array<float> x = random_normal({101}, 1, 1.5), dy = random_normal({101}, 2);
    const Array<double> expected = test::central_differences(x, [&](const auto& at) {
      double loss = 0;
      for (size_t i = 0; i < at.size(); ++i) loss += dy.values()[i] * oracle(kind, at[i]);
      return loss;
    });
    for (Device device : test_devices()) {
      SCOPED_TRACE(testing::Message() << name_of(device) << ", kind " << static_cast<int>(kind));
      const Array<float> saved = kind == ActivationKind::kGelu ? x : activate(device, kind, x);
      expect_close(activate_backward(device, kind, dy, saved), expected, 2e-6);
    }
  }
}

TEST(Activation, BackwardTakesAGradientOfEitherStorage) {
  for (ActivationKind kind : kKinds) {
    for (int64_t n : {1, 8, 1029}) {
      const Array<float> saved = random_uniform({n}, 1, -1, 1), dy = random_normal({n}, 2);
      for (Device device : test_devices()) {
        for (const auto& storages : test_storage_pairs(device)) {
          SCOPED_TRACE(testing::Message() << name_of(device) << ", kind " << static_cast<int>(kind)
                                          << ", dy of " << name_of(storages[1]));
          const Array<float> expected = activate_backward(
              kCpuDevice, kind, rounded(dy, storages[1]), rounded(saved, storages[0]));
          expect_stored(activate_backward(device, kind, dy, saved, storages), expected, storages[0],
                        1e-6);
        }
      }
    }
  }
}

TEST(Activation, OutputsMayOverwriteInputs) {
  const Array<float> x = random_normal({1001}, 1), dy = random_normal({1001}, 2);
  constexpr ActivationKind kGelu = ActivationKind::kGelu;
  for (Device device : test_devices()) {
    for (Precision storage : test_storages(device)) {
      DeviceMemory memory(device);
      const RealView y = memory.put(x, storage), dx = memory.put(dy, storage);
      activation(memory.stream(), {.y = y, .x = y});
      EXPECT_EQ(memory.get(y).values(), activate(device, kGelu, x, 0, storage).values());
      activation_backward(memory.stream(), {.dx = dx, .dy = dx, .saved = memory.put(x, storage)});
      EXPECT_EQ(memory.get(dx).values(),
                activate_backward(device, kGelu, dy, x, {storage, storage}).values());
    }
  }
}

TEST(Activation, HasTheSameBitsForAnyThreads) {
  test::expect_same_bits_for_any_threads([](const Stream& stream, Arena&) {
    const Array<float> x = random_normal({50021}, 1);
    Array<float> y({50021}), dx({50021});
    activation(stream, {.y = y, .x = x});
    activation_backward(stream, {.dx = dx, .dy = y, .saved = x});
    std::vector<float> all = y.values();
    all.insert(all.end(), dx.values().begin(), dx.values().end());
    return all;
  });
}

TEST(Activation, RefusesArraysOfDifferentSizes) {
  Array<float> four({4}), five({5});
  EXPECT_THROW(activation(Stream(kCpuDevice), {.y = four, .x = five}), ShapeError);
  EXPECT_THROW(activation_backward(Stream(kCpuDevice), {.dx = four, .dy = four, .saved = five}),
               ShapeError);
  EXPECT_THROW(add(Stream(kMetaDevice), {.y = four, .a = four, .b = five}), ShapeError);
}

TEST(Activation, RefusesStoragesThatDoNotFit) {
  Array<float> fp32({4});
  Array<bf16> half({4});
  const Stream stream(kMetaDevice);
  EXPECT_THROW(activation(stream, {.y = fp32, .x = half}), Error);
  EXPECT_THROW(activation_backward(stream, {.dx = half, .dy = half, .saved = fp32}), Error);
  EXPECT_THROW(add(stream, {.y = fp32, .a = half, .b = half}), Error);
  EXPECT_THROW(add(stream, {.y = half, .a = half, .b = fp32}), Error);
}

TEST(Activation, RunsOnMetaWithoutTouchingItsArrays) {
  Array<float> y({3}, {1, 2, 3}), x({3}, {4, 5, 6});
  activation(Stream(kMetaDevice), {.y = y, .x = x});
  EXPECT_EQ(y.values(), (std::vector<float>{1, 2, 3}));
}

TEST(Add, AddsAndMayOverwriteAnInput) {
  for (Device device : test_devices()) {
    for (const auto& [storage, other_storage] : test_storage_pairs(device)) {
      if (storage == Precision::kBf16 && other_storage == Precision::kFp32) continue;
      const Array<float> a = rounded(random_normal({1030}, 1), storage);
      const Array<float> b = rounded(random_normal({1030}, 2), other_storage);
      Array<float> expected({1030});
      for (int64_t i = 0; i < 1030; ++i) expected[i] = a[i] + b[i];
      expected = rounded(expected, storage);
      for (int64_t first : {0, 1}) {
        DeviceMemory memory(device);
        const RealView y = behind(memory.put(a, storage), first);
        add(memory.stream(), {.y = y, .a = y, .b = behind(memory.put(b, other_storage), first)});
        const Array<float> sum = memory.get(y);
        for (int64_t i = 0; i < sum.numel(); ++i) ASSERT_EQ(sum[i], expected[first + i]);
      }
    }
  }
}

TEST(MaskRows, ZeroesExactlyTheMaskedRows) {
  for (int64_t channels : {3, 64, 101}) {
    Array<float> x({3, 11, channels});
    Array<uint8_t> mask({3, 11});
    Array<float> expected(x.shape());
    for (int64_t i = 0; i < x.numel(); ++i) {
      const int64_t row = i / channels;
      mask[row] = row % 3 == 1 ? 1 : 0;
      x[i] = mask[row] != 0 ? static_cast<float>(i) : std::numeric_limits<float>::quiet_NaN();
      expected[i] = mask[row] != 0 ? x[i] : 0.0f;
    }
    for (Device device : test_devices()) {
      DeviceMemory memory(device);
      const View<float> y = memory.put(x);
      mask_rows(memory.stream(), {.x = y, .mask = memory.put(mask)});
      EXPECT_EQ(memory.get(y).values(), expected.values()) << name_of(device);
    }
  }
}

TEST(MaskRows, RefusesAMaskOfAnotherShape) {
  Array<float> x({2, 2, 3});
  const Array<uint8_t> wrong({2, 3});
  EXPECT_THROW(mask_rows(Stream(kCpuDevice), {.x = x, .mask = wrong}), ShapeError);
}

}  // namespace
}  // namespace stipple::kernels
