// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>

#include "core/cpu/isa.h"
#include "kernels/math/activation.h"
#include "tests/support/arrays.h"
#include "tests/support/op_checks.h"

namespace stipple::kernels {
namespace {

using test::Array;
using test::expect_close;
using test::random_normal;

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
    SCOPED_TRACE(testing::Message() << "kind " << static_cast<int>(kind));
    const Array<float> x = random_normal({101}, 1, 1.5), dy = random_normal({101}, 2);
    Array<float> y({101}), dx({101});
    activation(Stream(kCpuDevice), {.y = y, .x = x, .kind = kind});
    const Array<float>& saved = kind == ActivationKind::kGelu ? x : y;
    activation_backward(Stream(kCpuDevice), {.dx = dx, .dy = dy, .saved = saved, .kind = kind});
    expect_close(dx,
                 test::central_differences(x,
                                           [&](const std::vector<double>& at) {
                                             double loss = 0;
                                             for (size_t i = 0; i < at.size(); ++i)
                                               loss += dy.values()[i] * oracle(kind, at[i]);
                                             return loss;
                                           }),
                 2e-6);
  }
}

TEST(Activation, OutputsMayOverwriteInputs) {
  const Array<float> x = random_normal({1000}, 1), dy = random_normal({1000}, 2);
  Array<float> y({1000}), dx({1000}), y_in_place = x, dx_in_place = dy;
  const Stream stream(kCpuDevice);
  activation(stream, {.y = y, .x = x});
  activation(stream, {.y = y_in_place, .x = y_in_place});
  EXPECT_EQ(y.values(), y_in_place.values());
  activation_backward(stream, {.dx = dx, .dy = dy, .saved = x});
  activation_backward(stream, {.dx = dx_in_place, .dy = dx_in_place, .saved = x});
  EXPECT_EQ(dx.values(), dx_in_place.values());
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

TEST(Activation, RunsOnMetaWithoutTouchingItsArrays) {
  Array<float> y({3}, {1, 2, 3}), x({3}, {4, 5, 6});
  activation(Stream(kMetaDevice), {.y = y, .x = x});
  EXPECT_EQ(y.values(), (std::vector<float>{1, 2, 3}));
}

TEST(Add, AddsAndMayOverwriteAnInput) {
  Array<float> a({3}, {1, 2, 3}), b({3}, {10, 20, 30});
  add(Stream(kCpuDevice), {.y = a, .a = a, .b = b});
  EXPECT_EQ(a.values(), (std::vector<float>{11, 22, 33}));
}

TEST(MaskRows, ZeroesExactlyTheMaskedRows) {
  Array<float> x({2, 2, 3});
  x.fill(std::numeric_limits<float>::quiet_NaN());
  for (int64_t c = 0; c < 3; ++c) x[3 + c] = static_cast<float>(c + 1);
  const Array<uint8_t> mask({2, 2}, {0, 1, 0, 0});
  mask_rows(Stream(kCpuDevice), {.x = x, .mask = mask});
  EXPECT_EQ(x.values(), (std::vector<float>{0, 0, 0, 1, 2, 3, 0, 0, 0, 0, 0, 0}));
  const Array<uint8_t> wrong({2, 3});
  EXPECT_THROW(mask_rows(Stream(kCpuDevice), {.x = x, .mask = wrong}), ShapeError);
}

}  // namespace
}  // namespace stipple::kernels
