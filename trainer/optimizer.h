// SPDX-License-Identifier: Apache-2.0
// Gradient clipping by global norm and AdamW over the flat arenas of a model::ParameterStore. Every
// rank holds all moments and makes the same update from the same gradients: no communication here.
//
//   Optimizer optimizer(config.optimizer, store, kCpuDevice);
//   const double norm = optimizer.norm(stream, grads, scratch);      // and here a SpikeGuard may
//   say no optimizer.apply(stream, grads, norm, rates_at(config.optimizer.schedule, ...));
#pragma once

#include <cstdint>
#include <vector>

#include "core/arena.h"
#include "core/buffer.h"
#include "core/config.h"
#include "core/range.h"
#include "core/stream.h"
#include "core/view.h"
#include "model/parameter_store.h"
#include "trainer/schedule.h"

namespace stipple::trainer {

struct OptimizerConfig {
  double learning_rate = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.0;
  double clip_norm = 0.0;  ///< 0: no clipping
  ScheduleConfig schedule{};
  void describe(ConfigVisitor&);
};

class Optimizer {
 public:
  /// After store.allocate(). The moments start as zeros. `store` must outlive the optimizer.
  Optimizer(const OptimizerConfig&, const model::ParameterStore& store, Device);

  /// L2 norm of all gradients, the same bits for any number of threads; not finite when an element
  /// is not.
  double norm(const Stream&, View<const float> grads, Arena& scratch) const;

  struct Applied {
    bool clipped = false;
    bool skipped =
        false;  ///< the norm was not finite: nothing changed, not even the count of updates
  };
  /// One update with gradients scaled by min(1, clip_norm / norm). rates.beta1, when given, takes
  /// the place of beta1.
  Applied apply(const Stream&, View<const float> grads, double norm, const StepRates& rates);

  /// A dry run of the two on a meta stream: `scratch` learns its peak.
  void plan(const Stream&, Arena& scratch) const;

  // --- state, for checkpoints ---
  View<float> first_moment() const;  ///< flat, the store's layout
  View<float> second_moment() const;
  /// Updates made so far; skipped steps do not count. Bias correction depends on it.
  int64_t applied_steps() const { return applied_steps_; }
  void restore(int64_t applied_steps);

 private:
  /// Neighbours in the arena with the same decay, padding included.
  struct Run {
    Range range;
    bool decays;
  };
  static std::vector<Run> make_runs(const model::ParameterStore&);

  OptimizerConfig config_;
  const model::ParameterStore& store_;
  Buffer first_moment_;
  Buffer second_moment_;
  std::vector<Run> runs_;
  int64_t applied_steps_ = 0;
};

}  // namespace stipple::trainer
