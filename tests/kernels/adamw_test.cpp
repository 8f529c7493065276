// SPDX-License-Identifier: Apache-2.0
#include "kernels/adamw.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/arrays.h"
#include "tests/support/op_checks.h"

namespace stipple::kernels {
namespace {

using test::Array;
using test::expect_close;
using test::random_normal;

double norm_of(const Stream& stream, Arena& scratch, const Array<float>& x) {
  Array<double> sum({1}, {-1});
  squared_norm(stream, {.sum = sum, .x = x, .scratch = &scratch});
  return sum[0];
}

TEST(SquaredNorm, MatchesOracleForOddSizes) {
  Arena scratch("scratch", kCpuDevice, test::kScratchBytes);
  for (int64_t n : {0, 1, 31, 4096, 4097, 50021}) {
    const Array<float> x = random_normal({n}, 1);
    double expected = 0;
    for (float value : x.values()) expected += double{value} * value;
    EXPECT_NEAR(norm_of(Stream(kCpuDevice), scratch, x), expected, 1e-13 * expected) << n;
  }
}

TEST(SquaredNorm, AnyBadElementMakesTheSumNonFinite) {
  Arena scratch("scratch", kCpuDevice, test::kScratchBytes);
  for (float bad : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
    for (int64_t where : {0, 4100, 9999}) {
      Array<float> x = random_normal({10000}, 1);
      x[where] = bad;
      EXPECT_FALSE(std::isfinite(norm_of(Stream(kCpuDevice), scratch, x))) << where;
    }
  }
}

TEST(SquaredNorm, HasTheSameBitsForAnyThreads) {
  test::expect_same_bits_for_any_threads([](const Stream& stream, Arena& scratch) {
    return norm_of(stream, scratch, random_normal({50021}, 1));
  });
}

TEST(SquaredNorm, PlansItsScratch) {
  const Array<float> x = random_normal({70000}, 1);
  test::expect_meta_counts_scratch(
      [&](const Stream& stream, Arena& scratch) { norm_of(stream, scratch, x); });
}

TEST(SquaredNorm, RefusesAWrongResultAndMissingScratch) {
  Array<double> two({2}), one({1});
  const Array<float> x({5});
  Arena scratch("scratch");
  EXPECT_THROW(squared_norm(Stream(kMetaDevice), {.sum = two, .x = x, .scratch = &scratch}),
               ShapeError);
  EXPECT_THROW(squared_norm(Stream(kCpuDevice), {.sum = one, .x = x}), Error);
}

struct State {
  Array<float> x, m, v, grad;
  explicit State(int64_t n)
      : x(random_normal({n}, 1)), m({n}), v({n}), grad(random_normal({n}, 2)) {}
  AdamW args(int step) {
    return {.x = x,
            .m = m,
            .v = v,
            .grad = grad,
            .learning_rate = 0.01f,
            .beta1 = 0.9f,
            .beta2 = 0.98f,
            .eps = 1e-6f,
            .weight_decay = 0.1f,
            .grad_scale = 0.5f,
            .bias_correction1 = 1 - std::pow(0.9, step),
            .bias_correction2 = 1 - std::pow(0.98, step)};
  }
};

TEST(AdamW, FollowsItsFormulaOverSeveralSteps) {
  for (int64_t n : {1, 31, 8209}) {
    State t(n);
    Array<double> x({n}), m({n}), v({n});
    for (int64_t i = 0; i < n; ++i) x[i] = t.x[i];
    for (int step = 1; step <= 5; ++step) {
      const AdamW args = t.args(step);
      adamw(Stream(kCpuDevice), args);
      for (int64_t i = 0; i < n; ++i) {
        const double g = 0.5 * t.grad[i];
        m[i] = 0.9 * m[i] + 0.1 * g;
        v[i] = 0.98 * v[i] + 0.02 * g * g;
        x[i] -= 0.01 *
                (m[i] / args.bias_correction1 / (std::sqrt(v[i] / args.bias_correction2) + 1e-6) +
                 0.1 * x[i]);
      }
    }
    expect_close(t.x, x, 1e-6);
    expect_close(t.m, m, 1e-6);
    expect_close(t.v, v, 2e-6);
  }
}

TEST(AdamW, AnElementWithoutGradientOnlyDecays) {
  State t(1);
  t.x[0] = 2.0f;
  t.grad[0] = 0.0f;
  adamw(Stream(kCpuDevice), t.args(1));
  EXPECT_FLOAT_EQ(t.x[0], 2.0f - 0.01f * 0.1f * 2.0f);
}

TEST(AdamW, HasTheSameBitsForAnyThreads) {
  test::expect_same_bits_for_any_threads([](const Stream& stream, Arena&) {
    State t(50021);
    adamw(stream, t.args(1));
    adamw(stream, t.args(2));
    return t.x.values();
  });
}

TEST(AdamW, RefusesArraysOfDifferentSizes) {
  State t(5);
  Array<float> four({4});
  AdamW args = t.args(1);
  args.v = four;
  EXPECT_THROW(adamw(Stream(kCpuDevice), args), ShapeError);
}

}  // namespace
}  // namespace stipple::kernels
