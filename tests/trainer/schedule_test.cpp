// SPDX-License-Identifier: Apache-2.0
#include "trainer/optimizer/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/error.h"

namespace stipple::trainer {
namespace {

constexpr double kTight = 1e-15;

/// Twenty steps of a run: both ends, both sides of the end of the warm-up, and points between.
std::vector<int64_t> twenty_steps(int64_t warmup, int64_t total) {
  std::vector<int64_t> steps = {0,      1,          warmup - 2, warmup - 1,
                                warmup, warmup + 1, total - 2,  total - 1};
  for (int64_t i = 1; i <= 12; ++i) steps.push_back(i * total / 13);
  return steps;
}

void expect_rate(const ScheduleConfig& config, double base, int64_t step, int64_t total,
                 double expected) {
  const StepRates rates = rates_at(config, base, step, total);
  EXPECT_NEAR(rates.learning_rate, expected, kTight * base) << "step " << step;
  EXPECT_FALSE(rates.beta1.has_value());
}

TEST(Schedule, OneCycleFollowsTheFormulasOfPyTorch) {
  const ScheduleConfig config{.kind = ScheduleKind::kOneCycle, .warmup_steps = 1000};
  const double peak = 5e-4;
  const int64_t total = 5000;
  // As PyTorch is called: pct_start = warm-up / total.
  const double a = (1000.0 / 5000.0) * 5000.0 - 1.0;
  const double first = peak / 25.0;
  const double last = first / 10000.0;
  for (const int64_t step : twenty_steps(1000, total)) {
    const auto s = static_cast<double>(step);
    const double up = s / a;
    const double down = (s - a) / (5000.0 - 1.0 - a);
    const StepRates rates = rates_at(config, peak, step, total);
    const double rate = s <= a ? first + (peak - first) * up : peak + (last - peak) * down;
    EXPECT_NEAR(rates.learning_rate, rate, kTight) << "step " << step;
    ASSERT_TRUE(rates.beta1.has_value());
    EXPECT_NEAR(*rates.beta1, s <= a ? 0.95 - 0.10 * up : 0.85 + 0.10 * down, kTight);
  }
}

TEST(Schedule, OneCycleTouchesItsCorners) {
  const ScheduleConfig config{.kind = ScheduleKind::kOneCycle, .warmup_steps = 1000};
  const StepRates start = rates_at(config, 5e-4, 0, 5000);
  const StepRates peak = rates_at(config, 5e-4, 999, 5000);
  const StepRates end = rates_at(config, 5e-4, 4999, 5000);
  EXPECT_NEAR(start.learning_rate, 2e-5, kTight);
  EXPECT_NEAR(peak.learning_rate, 5e-4, kTight);
  EXPECT_NEAR(end.learning_rate, 2e-9, kTight);
  EXPECT_NEAR(*start.beta1, 0.95, kTight);
  EXPECT_NEAR(*peak.beta1, 0.85, kTight);
  EXPECT_NEAR(*end.beta1, 0.95, kTight);
}

TEST(Schedule, OneCycleHasSensibleEdges) {
  ScheduleConfig config{.kind = ScheduleKind::kOneCycle, .warmup_steps = 0};
  EXPECT_NEAR(rates_at(config, 1.0, 0, 10).learning_rate, 1.0 + (4e-6 - 1.0) * 0.1, kTight);
  EXPECT_NEAR(rates_at(config, 1.0, 9, 10).learning_rate, 4e-6, kTight);
  EXPECT_NEAR(rates_at(config, 1.0, 0, 1).learning_rate, 4e-6, kTight);
  config.warmup_steps = 1;
  EXPECT_EQ(rates_at(config, 1.0, 0, 10).learning_rate, 1.0);
  EXPECT_EQ(rates_at(config, 1.0, 0, 1).learning_rate, 1.0);
  EXPECT_NEAR(rates_at(config, 1.0, 9, 10).learning_rate, 4e-6, kTight);
  config.warmup_steps = 10;
  EXPECT_NEAR(rates_at(config, 1.0, 0, 10).learning_rate, 0.04, kTight);
  EXPECT_NEAR(rates_at(config, 1.0, 9, 10).learning_rate, 1.0, kTight);
}

TEST(Schedule, LinearRisesThenFallsInStraightLines) {
  const ScheduleConfig config{
      .kind = ScheduleKind::kLinear, .warmup_steps = 300, .final_ratio = 0.1};
  for (const int64_t step : twenty_steps(300, 1700)) {
    const auto s = static_cast<double>(step);
    const double rising = 2e-3 * s / 300.0;
    const double falling = 2e-3 - (2e-3 - 2e-4) * (s - 300.0) / 1400.0;
    expect_rate(config, 2e-3, step, 1700, s < 300 ? rising : falling);
  }
}

TEST(Schedule, PolynomialIsBertsLineAndLambsRoot) {
  // Google's optimization.py: polynomial_decay over all steps, then the warm-up put in its place
  // where step < warm-up. NVIDIA's PolyWarmUpScheduler: (1 - progress) ** 0.5.
  for (const double power : {1.0, 0.5}) {
    const ScheduleConfig config{
        .kind = ScheduleKind::kPolynomial, .warmup_steps = 2001, .power = power};
    for (const int64_t step : twenty_steps(2001, 7038)) {
      const auto s = static_cast<double>(step);
      const double expected =
          step < 2001 ? 6e-3 * s / 2001.0 : 6e-3 * std::pow(1.0 - s / 7038.0, power);
      expect_rate(config, 6e-3, step, 7038, expected);
    }
  }
}

TEST(Schedule, PolynomialHasTheValuesThatAreComputedByHand) {
  ScheduleConfig config{.kind = ScheduleKind::kPolynomial, .warmup_steps = CountOrShare::share(10)};
  // BERT: 1e-4, 1M steps, 10k of warm-up, here a thousandth: the rate drops at the end of the rise.
  expect_rate(config, 1e-4, 0, 1000, 0.0);
  expect_rate(config, 1e-4, 50, 1000, 5e-5);
  expect_rate(config, 1e-4, 99, 1000, 9.9e-5);
  expect_rate(config, 1e-4, 100, 1000, 9e-5);
  expect_rate(config, 1e-4, 500, 1000, 5e-5);
  expect_rate(config, 1e-4, 999, 1000, 1e-7);
  config.power = 0.5;
  expect_rate(config, 1e-4, 750, 1000, 5e-5);
  expect_rate(config, 1e-4, 990, 1000, 1e-5);
  config.final_ratio = 0.2;
  expect_rate(config, 1e-4, 750, 1000, 6e-5);
  config.warmup_steps = 0;
  expect_rate(config, 1.0, 0, 1, 1.0);
}

TEST(Schedule, LinearHasSensibleEdges) {
  ScheduleConfig config{.kind = ScheduleKind::kLinear, .warmup_steps = 0};
  expect_rate(config, 1.0, 0, 4, 1.0);
  expect_rate(config, 1.0, 3, 4, 0.25);
  expect_rate(config, 1.0, 0, 1, 1.0);
  config.warmup_steps = 4;
  expect_rate(config, 1.0, 0, 4, 0.0);
  expect_rate(config, 1.0, 3, 4, 0.75);
}

TEST(Schedule, CosineFollowsTheLongRangeArena) {
  const ScheduleConfig config{.kind = ScheduleKind::kCosine, .warmup_steps = 175};
  const double pi = std::acos(-1.0);
  for (const int64_t step : twenty_steps(175, 35000)) {
    const auto s = static_cast<double>(step);
    double whole = 0;
    const double frac = s < 175 ? 0.0 : std::modf((s - 175.0) / 35000.0, &whole);
    const double expected = std::min(1.0, s / 175.0) * std::max(0.0, (1 + std::cos(pi * frac)) / 2);
    expect_rate(config, 5e-4, step, 35000, 5e-4 * expected);
  }
  EXPECT_GT(rates_at(config, 5e-4, 34999, 35000).learning_rate, 0.0);
}

TEST(Schedule, RsqrtFollowsTheLongRangeArena) {
  const ScheduleConfig config{.kind = ScheduleKind::kRsqrt, .warmup_steps = 1000};
  for (const int64_t step : twenty_steps(1000, 5000)) {
    const auto s = static_cast<double>(step);
    const double expected = 0.05 * std::min(1.0, s / 1000.0) / std::sqrt(std::max(s, 1000.0));
    expect_rate(config, 0.05, step, 5000, expected);
  }
  // The peak that the published recipe reaches.
  EXPECT_NEAR(rates_at(config, 0.05, 1000, 5000).learning_rate, 1.58e-3, 5e-6);
}

TEST(Schedule, ConstantStaysAfterItsWarmUp) {
  const ScheduleConfig config{.kind = ScheduleKind::kConstant, .warmup_steps = 10};
  for (const int64_t step : twenty_steps(10, 100)) {
    expect_rate(config, 0.5, step, 100, step < 10 ? 0.05 * static_cast<double>(step) : 0.5);
  }
}

TEST(Schedule, NoWarmUpIsFiniteFromTheFirstStep) {
  for (const ScheduleKind kind :
       {ScheduleKind::kOneCycle, ScheduleKind::kLinear, ScheduleKind::kCosine, ScheduleKind::kRsqrt,
        ScheduleKind::kConstant}) {
    const ScheduleConfig config{.kind = kind, .warmup_steps = 0};
    for (const int64_t total : {1, 2, 7}) {
      for (int64_t step = 0; step < total; ++step) {
        const double rate = rates_at(config, 1.0, step, total).learning_rate;
        EXPECT_TRUE(std::isfinite(rate) && rate > 0 && rate <= 1) << rate;
      }
    }
  }
  expect_rate({.kind = ScheduleKind::kRsqrt, .warmup_steps = 0}, 1.0, 0, 5, 1.0);
  expect_rate({.kind = ScheduleKind::kCosine, .warmup_steps = 0}, 1.0, 0, 5, 1.0);
}

TEST(Schedule, StepsOutsideTheRunAreErrors) {
  const ScheduleConfig config{.warmup_steps = 2};
  EXPECT_THROW(rates_at(config, 1.0, -1, 5), Error);
  EXPECT_THROW(rates_at(config, 1.0, 5, 5), Error);
  EXPECT_THROW(rates_at(config, 1.0, 0, 1), Error);
}

}  // namespace
}  // namespace stipple::trainer
