// SPDX-License-Identifier: Apache-2.0
// Learning-rate schedules: pure functions of the step, in double. Nothing to save, nothing to
// restore.
#pragma once

#include <cstdint>
#include <optional>

#include "core/config.h"

namespace stipple::trainer {

/// With s the step from 0, w warmup_steps, T the steps of the run and warm = min(1, s / w) (1 when
/// w = 0):
enum class ScheduleKind : uint8_t {
  kOneCycle,  ///< PyTorch's OneCycleLR, linear: base / 25 up to base at step w - 1, then down to
              ///< base / 250000 at T - 1; beta1 goes 0.95 down to 0.85 and back with it. Source:
              ///< SBM-Transformer's and Nystromformer's training code.
  kLinear,    ///< base * warm up to step w, then straight to base * final_ratio at step T (RoBERTa,
              ///< transformers)
  kCosine,  ///< base * warm * (1 + cos(pi frac(max(0, s - w) / T))) / 2. Source: Long Range Arena;
            ///< never quite reaches 0
  kRsqrt,   ///< base * warm / sqrt(max(s, w, 1)): the peak is base / sqrt(w). Source: Long Range
            ///< Arena
  kConstant,    ///< base * warm
  kPolynomial,  ///< base * warm up to step w, then base * (f + (1 - f) (1 - s / T)^power) with f
                ///< final_ratio. The line begins at step 0, not w, so that the rate falls by a
                ///< little at step w. Source: BERT (power 1), NVIDIA's LAMB (power 0.5)
};

struct ScheduleConfig {
  ScheduleKind kind = ScheduleKind::kOneCycle;
  CountOrShare warmup_steps = 100;  ///< a share is one of the run's steps
  double final_ratio = 0.0;
  double power = 1.0;
  void describe(ConfigVisitor&);
};

struct StepRates {
  double learning_rate = 0;
  std::optional<double>
      beta1{};  ///< takes the place of the optimizer's, when the schedule cycles it
};

/// The rates of `step`, in [0, total_steps). Error outside, and when the warm-up is longer than the
/// run.
StepRates rates_at(const ScheduleConfig&, double base_learning_rate, int64_t step,
                   int64_t total_steps);

}  // namespace stipple::trainer
