// SPDX-License-Identifier: Apache-2.0
#include "trainer/optimizer/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace stipple::trainer {
namespace {

// Defaults of PyTorch's OneCycleLR: div_factor, final_div_factor, max_momentum, base_momentum.
constexpr double kStartDivisor = 25.0;
constexpr double kFinalDivisor = 1e4;
constexpr double kHighBeta1 = 0.95;
constexpr double kLowBeta1 = 0.85;

double interpolate(double from, double to, double fraction) {
  return from + (to - from) * fraction;
}

StepRates one_cycle(double base, double step, double warmup_steps, double total_steps) {
  const double start = base / kStartDivisor;
  const double end = start / kFinalDivisor;
  const double peak_step = warmup_steps - 1;
  if (step <= peak_step) {
    // A warm-up of one step has no way up: it starts at the peak.
    const double fraction = peak_step > 0 ? step / peak_step : 1.0;
    return {interpolate(start, base, fraction), interpolate(kHighBeta1, kLowBeta1, fraction)};
  }
  const double fraction = (step - peak_step) / (total_steps - 1 - peak_step);
  return {interpolate(base, end, fraction), interpolate(kLowBeta1, kHighBeta1, fraction)};
}

}  // namespace

void ScheduleConfig::describe(ConfigVisitor& v) {
  v.choice(
      "kind", kind, {"one_cycle", "linear", "cosine", "rsqrt", "constant", "polynomial"},
      {.doc = "How the learning rate depends on the step. one_cycle also cycles beta1 between "
              "0.95 and 0.85, as PyTorch's OneCycleLR does; rsqrt divides learning_rate by the "
              "square root of the step. linear falls from the end of the warm-up on; polynomial "
              "as if it had begun at step 0, as BERT's: (1 - step / steps) ^ power."});
  v.field("warmup_steps", warmup_steps,
          {.doc = "Steps over which the rate rises; at most train.steps.",
           .unit = "steps",
           .min = 0,
           .max = 1e9,
           .share_of = "train.steps"});
  v.field("final_ratio", final_ratio,
          {.doc = "linear and polynomial: the rate at the end of the run, as a part of "
                  "learning_rate.",
           .min = 0,
           .max = 1});
  v.field("power", power,
          {.doc = "polynomial only: 1 is BERT's straight line; 0.5, of LAMB, stays high for long.",
           .min = 0.01,
           .max = 100});
}

StepRates rates_at(const ScheduleConfig& config, double base_learning_rate, int64_t step,
                   int64_t total_steps) {
  STIPPLE_CHECK(step >= 0 && step < total_steps, "schedule: step ", step, " is outside a run of ",
                total_steps, " steps");
  const int64_t warmup_steps = config.warmup_steps.of(total_steps);
  STIPPLE_CHECK(warmup_steps <= total_steps, "schedule: a warm-up of ", warmup_steps,
                " steps does not fit into a run of ", total_steps, " steps");
  const auto s = static_cast<double>(step);
  const auto w = static_cast<double>(warmup_steps);
  const auto total = static_cast<double>(total_steps);
  const double warm = base_learning_rate * (s < w ? s / w : 1.0);
  switch (config.kind) {
    case ScheduleKind::kOneCycle:
      return one_cycle(base_learning_rate, s, w, total);
    case ScheduleKind::kLinear:
      if (s < w) return {warm, std::nullopt};
      return {base_learning_rate * interpolate(1.0, config.final_ratio, (s - w) / (total - w)),
              std::nullopt};
    case ScheduleKind::kCosine: {
      // s - w < total, so the fraction of the cycle needs no wrapping.
      const double angle = std::numbers::pi * std::max(0.0, s - w) / total;
      return {warm * (1.0 + std::cos(angle)) / 2.0, std::nullopt};
    }
    case ScheduleKind::kRsqrt:
      return {warm / std::sqrt(std::max({s, w, 1.0})), std::nullopt};
    case ScheduleKind::kPolynomial:
      if (s < w) return {warm, std::nullopt};
      return {base_learning_rate *
                  interpolate(config.final_ratio, 1.0, std::pow(1.0 - s / total, config.power)),
              std::nullopt};
    case ScheduleKind::kConstant:
      break;
  }
  return {warm, std::nullopt};
}

}  // namespace stipple::trainer
