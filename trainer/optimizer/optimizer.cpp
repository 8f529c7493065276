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

template <class T>
View<T> slice(View<T> flat, Range range) {
  return {flat.data == nullptr ? nullptr : flat.data + range.begin, Shape{range.size()}};
}

}  // namespace

void OptimizerConfig::describe(ConfigVisitor& v) {
  v.field("learning_rate", learning_rate,
          {.doc = "The rate that the schedule scales: its peak (rsqrt: peak times the square root "
                  "of warmup_steps).",
           .min = 0,
           .max = 1000});
  v.field("beta1", beta1,
          {.doc = "Decay of the mean of gradients. one_cycle replaces it by its own.",
           .min = 0,
           .max = 0.9999});
  v.field("beta2", beta2,
          {.doc = "Decay of the mean of squared gradients.", .min = 0, .max = 0.999999});
  v.field("eps", eps, {.doc = "Added to the root of the second moment.", .min = 1e-30, .max = 1});
  v.field("weight_decay", weight_decay,
          {.doc = "Decoupled decay (AdamW) of matrices; biases, norms and embeddings are exempt.",
           .min = 0,
           .max = 10});
  v.field("clip_norm", clip_norm,
          {.doc = "Gradients are scaled down to at most this global L2 norm. 0: never.",
           .min = 0,
           .max = 1e9});
  v.section("schedule", schedule, "How the learning rate changes during the run.");
}

Optimizer::Optimizer(const OptimizerConfig& config, const model::ParameterStore& store,
                     Device device)
    : config_(config),
      store_(store),
      first_moment_(device, bytes_of(store)),
      second_moment_(device, bytes_of(store)),
      state_(device, sizeof(State)),
      staged_rates_(Buffer::staging(device, kSlots * sizeof(kernels::UpdateRates))),
      runs_(make_runs(store)) {}

std::vector<Optimizer::Run> Optimizer::make_runs(const model::ParameterStore& store) {
  std::vector<const model::ParameterStore::Entry*> entries;
  for (const auto& entry : store.entries()) entries.push_back(&entry);
  std::sort(entries.begin(), entries.end(),
            [](const auto* a, const auto* b) { return a->range.begin < b->range.begin; });
  std::vector<Run> runs;
  for (const auto* entry : entries) {
    const bool decays = entry->decay == model::Decay::kYes;
    if (!runs.empty() && runs.back().decays == decays) continue;
    // The padding behind a tensor belongs to its run: it is zero, has no gradient, and stays zero.
    if (!runs.empty()) runs.back().range.end = entry->range.begin;
    runs.push_back({{entry->range.begin, store.numel()}, decays});
  }
  return runs;
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

void Optimizer::measure(const Stream& stream, View<const float> grads, Arena& scratch) {
  STIPPLE_CHECK_SHAPE("optimizer", grads, {store_.numel()});
  kernels::squared_norm(stream,
                        {.sum = field(&Outcome::squared_norm), .x = grads, .scratch = &scratch});
}

void Optimizer::plan(const Stream& stream, Arena& scratch) {
  measure(stream, {nullptr, {store_.numel()}}, scratch);
}

void Optimizer::apply(const Stream& stream, View<const float> grads) {
  STIPPLE_CHECK_SHAPE("optimizer", grads, {store_.numel()});
  const View<kernels::UpdateScalars> scalars = field(&Outcome::scalars);
  kernels::prepare_update(stream, {.scalars = scalars,
                                   .applied_steps = field(&Outcome::applied_steps),
                                   .squared_norm = field(&Outcome::squared_norm),
                                   .rates = field(&State::rates),
                                   .clip_norm = config_.clip_norm,
                                   .beta2 = config_.beta2,
                                   .eps = static_cast<float>(config_.eps)});
  for (const Run& run : runs_) {
    kernels::adamw(stream,
                   {.x = slice(store_.values(), run.range),
                    .m = slice(first_moment(), run.range),
                    .v = slice(second_moment(), run.range),
                    .grad = slice(grads, run.range),
                    .scalars = scalars,
                    .weight_decay = run.decays ? static_cast<float>(config_.weight_decay) : 0.0F});
  }
}

}  // namespace stipple::trainer
