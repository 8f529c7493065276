// SPDX-License-Identifier: Apache-2.0
#include "trainer/optimizer/optimizer.h"

#include <algorithm>
#include <cmath>

#include "core/copy.h"
#include "core/error.h"
#include "kernels/squared_norm.h"

namespace stipple::trainer {
namespace {

size_t bytes_of(const model::ParameterStore& store) {
  return static_cast<size_t>(store.numel()) * sizeof(float);
}

/// Steps whose rates may be on their way to the device at one time.
constexpr int64_t kSlots = 8;

/// One rule each, padding included: it is zero, has no gradient, and stays zero.
std::vector<TensorRule> merged(const std::vector<TensorRule>& rules, int64_t numel) {
  std::vector<TensorRule> runs;
  for (const TensorRule& rule : rules) {
    if (!runs.empty() && runs.back().is_alike(rule)) continue;
    if (!runs.empty()) runs.back().range.end = rule.range.begin;
    runs.push_back(rule);
    runs.back().range.end = numel;
  }
  return runs;
}

template <class T>
View<T> slice(View<T> flat, Range range) {
  return {flat.data == nullptr ? nullptr : flat.data + range.begin, Shape{range.size()}};
}

}  // namespace

Optimizer::Optimizer(const OptimizerConfig& config, const model::ParameterStore& store,
                     Device device)
    : config_(config),
      store_(store),
      first_moment_(device, bytes_of(store)),
      second_moment_(device, bytes_of(store)),
      state_(device, sizeof(State)),
      staged_rates_(Buffer::staging(device, kSlots * sizeof(kernels::UpdateRates))),
      rules_(tensor_rules(config, store)),
      runs_(merged(rules_, store.numel())),
      frozen_stages_(trainer::frozen_stages(rules_)) {
  if (config.kind == OptimizerKind::kLamb) lamb_.emplace(rules_, config.is_nvidia_lamb(), device);
}

View<float> Optimizer::first_moment() const {
  return {reinterpret_cast<float*>(first_moment_.data()), Shape{store_.numel()}};
}

View<float> Optimizer::second_moment() const {
  return {reinterpret_cast<float*>(second_moment_.data()), Shape{store_.numel()}};
}

template <class T>
View<T> Optimizer::field(T State::*member) const {
  return {state() == nullptr ? nullptr : &(state()->*member), {1}};
}

template <class T>
View<T> Optimizer::field(T Outcome::*member) const {
  return {state() == nullptr ? nullptr : &(state()->outcome.*member), {1}};
}

double Optimizer::Outcome::norm() const { return std::sqrt(squared_norm); }

const Optimizer::Outcome* Optimizer::outcome() const { return &state()->outcome; }

Optimizer::Outcome Optimizer::read_outcome(const Stream& stream) const {
  Outcome outcome;
  copy_bytes(stream, &outcome, &state()->outcome, sizeof(outcome));
  stream.synchronize();
  return outcome;
}

void Optimizer::describe_state(const Stream& stream, StateVisitor& v) {
  store_.describe_state(v, "first_moment", first_moment());
  store_.describe_state(v, "second_moment", second_moment());
  const int64_t before = read_outcome(stream).applied_steps;
  int64_t applied_steps = before;
  v.count("applied_steps", applied_steps);
  STIPPLE_CHECK_AS(CheckpointError, applied_steps >= 0, "optimizer: ", applied_steps,
                   " applied steps cannot be; resume from an older checkpoint");
  if (applied_steps != before)
    upload(stream, field(&Outcome::applied_steps), std::span<const int64_t>(&applied_steps, 1));
}

void Optimizer::set_rates(const Stream& stream, const StepRates& rates, bool is_wanted) {
  auto* slots = reinterpret_cast<kernels::UpdateRates*>(staged_rates_.data());
  kernels::UpdateRates& staged = slots[next_slot_++ % kSlots];
  staged = {.learning_rate = static_cast<float>(rates.learning_rate),
            .beta1 = static_cast<float>(rates.beta1.value_or(config_.beta1)),
            .is_wanted = is_wanted ? 1 : 0};
  copy_bytes(stream, &state()->rates, &staged, sizeof(staged));
}

void Optimizer::clear_frozen(const Stream& stream, View<float> grads) const {
  STIPPLE_CHECK_SHAPE("optimizer", grads, {store_.numel()});
  for (const TensorRule& run : runs_)
    if (run.is_frozen) fill_zero(stream, slice(grads, run.range));
}

void Optimizer::measure(const Stream& stream, View<const float> grads, Arena& scratch) {
  STIPPLE_CHECK_SHAPE("optimizer", grads, {store_.numel()});
  kernels::squared_norm(stream,
                        {.sum = field(&Outcome::squared_norm), .x = grads, .scratch = &scratch});
}

void Optimizer::plan(const Stream& stream, Arena& scratch) {
  const View<const float> grads{nullptr, {store_.numel()}};
  measure(stream, grads, scratch);
  apply(stream, grads, scratch);
}

void Optimizer::apply(const Stream& stream, View<const float> grads, Arena& scratch) {
  STIPPLE_CHECK_SHAPE("optimizer", grads, {store_.numel()});
  kernels::prepare_update(stream, {.scalars = field(&Outcome::scalars),
                                   .applied_steps = field(&Outcome::applied_steps),
                                   .squared_norm = field(&Outcome::squared_norm),
                                   .rates = field(&State::rates),
                                   .clip_norm = config_.max_norm(),
                                   .beta2 = config_.beta2,
                                   .eps = static_cast<float>(config_.eps),
                                   .corrects_bias = config_.bias_correction});
  if (lamb_) return apply_lamb(stream, grads, scratch);
  apply_adamw(stream, grads);
}

void Optimizer::apply_adamw(const Stream& stream, View<const float> grads) {
  for (const TensorRule& run : runs_) {
    if (run.is_frozen) continue;
    kernels::adamw(stream, {.x = slice(store_.values(), run.range),
                            .m = slice(first_moment(), run.range),
                            .v = slice(second_moment(), run.range),
                            .grad = slice(grads, run.range),
                            .scalars = field(&Outcome::scalars),
                            .weight_decay = static_cast<float>(run.weight_decay),
                            .rate_factor = static_cast<float>(run.rate_factor)});
  }
}

void Optimizer::apply_lamb(const Stream& stream, View<const float> grads, Arena& scratch) {
  kernels::lamb(stream, {.x = store_.values(),
                         .m = first_moment(),
                         .v = second_moment(),
                         .grad = grads,
                         .scalars = field(&Outcome::scalars),
                         .tensors = lamb_->tensors(),
                         .runs = lamb_->runs(),
                         .ratios = lamb_->ratios(),
                         .summary = field(&Outcome::trust),
                         .scratch = &scratch});
}

}  // namespace stipple::trainer
