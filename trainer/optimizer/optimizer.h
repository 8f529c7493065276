// SPDX-License-Identifier: Apache-2.0
// Gradient clipping by global norm, then AdamW or LAMB, over the flat arenas of a
// model::ParameterStore. Every rank holds all moments and makes the same update from the same
// gradients: no communication here.
// Norm, clipping factor, the decision to skip and the count of updates stay on the device: the host
// need not wait for any of them.
//
//   Optimizer optimizer(config.optimizer, store, device);
//   optimizer.set_rates(stream, rates_at(config.optimizer.schedule, ...));
//   optimizer.clear_frozen(stream, grads);
//   optimizer.measure(stream, grads, scratch);
//   optimizer.apply(stream, grads, scratch);
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/arena.h"
#include "core/buffer.h"
#include "core/range.h"
#include "core/state_visitor.h"
#include "core/stream.h"
#include "core/view.h"
#include "kernels/adamw.h"
#include "model/parameter_store.h"
#include "trainer/optimizer/lamb_tables.h"
#include "trainer/optimizer/optimizer_config.h"
#include "trainer/optimizer/schedule.h"
#include "trainer/optimizer/tensor_rules.h"

namespace stipple::trainer {

class Optimizer {
 public:
  /// After store.allocate(). The moments start as zeros. `store` must outlive the optimizer.
  Optimizer(const OptimizerConfig&, const model::ParameterStore& store, Device);

  /// What a step left; lives on the device, see outcome().
  struct Outcome {
    double squared_norm = 0;    ///< of all gradients; not finite when an element is not
    int64_t applied_steps = 0;  ///< updates made so far; skipped steps do not count
    kernels::UpdateScalars scalars{};
    kernels::TrustRatios trust{};  ///< of LAMB, in the last update made

    double norm() const;
    bool is_applied() const { return scalars.is_applied != 0; }
    bool is_clipped() const { return scalars.grad_scale < 1.0F; }
  };

  /// The values of the next apply(). rates.beta1, when given, takes the place of beta1. An update
  /// that is not wanted changes nothing.
  void set_rates(const Stream&, const StepRates& rates, bool is_wanted = true);
  /// Parts of the model, from the bottom, that need no backward.
  int64_t frozen_stages() const { return frozen_stages_; }
  /// Before measure(): what is frozen has no part in the norm.
  void clear_frozen(const Stream&, View<float> grads) const;
  /// The L2 norm of all gradients, the same bits for any number of threads.
  void measure(const Stream&, View<const float> grads, Arena& scratch);
  /// One update with gradients scaled by min(1, clip_norm / norm); nothing, not even the count of
  /// updates, changes when the norm is not finite.
  void apply(const Stream&, View<const float> grads, Arena& scratch);

  /// Device memory: copy it in stream order to read it later.
  const Outcome* outcome() const;
  Outcome read_outcome(const Stream&) const;  ///< waits

  /// A dry run on a meta stream: `scratch` learns its peak.
  void plan(const Stream&, Arena& scratch);

  View<float> first_moment() const;  ///< flat, the store's layout
  View<float> second_moment() const;
  /// The moments by parameter, and the count of updates, on which bias correction depends. Waits.
  /// CheckpointError when the restored count is none.
  void describe_state(const Stream&, StateVisitor&);

 private:
  struct State {
    Outcome outcome;
    kernels::UpdateRates rates;
  };
  void apply_adamw(const Stream&, View<const float> grads);
  void apply_lamb(const Stream&, View<const float> grads, Arena& scratch);
  State* state() const { return reinterpret_cast<State*>(state_.data()); }
  template <class T>
  View<T> field(T State::*member) const;
  template <class T>
  View<T> field(T Outcome::*member) const;

  OptimizerConfig config_;
  const model::ParameterStore& store_;
  Buffer first_moment_;
  Buffer second_moment_;
  Buffer state_;
  Buffer staged_rates_;  ///< a ring: copies of the last steps' rates may still be under way
  int64_t next_slot_ = 0;
  std::vector<TensorRule> rules_;
  std::vector<TensorRule> runs_;  ///< neighbours with one rule, padding included
  int64_t frozen_stages_;
  std::optional<LambTables> lamb_;
};

}  // namespace stipple::trainer
