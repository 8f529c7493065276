// SPDX-License-Identifier: Apache-2.0
#include "trainer/optimizer.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "kernels/adamw.h"

namespace stipple::trainer {
namespace {

size_t bytes_of(const model::ParameterStore& store) {
  return static_cast<size_t>(store.numel()) * sizeof(float);
}

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

void Optimizer::restore(int64_t applied_steps) {
  STIPPLE_CHECK_AS(CheckpointError, applied_steps >= 0, "optimizer: ", applied_steps,
                   " applied steps cannot be; resume from an older checkpoint");
  applied_steps_ = applied_steps;
}

double Optimizer::norm(const Stream& stream, View<const float> grads, Arena& scratch) const {
  STIPPLE_CHECK_SHAPE("optimizer", grads, {store_.numel()});
  const Arena::Scope scope(scratch);
  const View<double> sum = scratch.alloc<double>({1});
  kernels::squared_norm(stream, {.sum = sum, .x = grads, .scratch = &scratch});
  return sum.data == nullptr ? 0.0 : std::sqrt(sum[0]);
}

void Optimizer::plan(const Stream& stream, Arena& scratch) const {
  norm(stream, {nullptr, {store_.numel()}}, scratch);
}

Optimizer::Applied Optimizer::apply(const Stream& stream, View<const float> grads, double norm,
                                    const StepRates& rates) {
  STIPPLE_CHECK_SHAPE("optimizer", grads, {store_.numel()});
  if (!std::isfinite(norm)) return {.clipped = false, .skipped = true};
  const bool clipped = config_.clip_norm > 0 && norm > config_.clip_norm;
  const double beta1 = rates.beta1.value_or(config_.beta1);
  const auto updates = static_cast<double>(++applied_steps_);
  for (const Run& run : runs_) {
    kernels::adamw(stream,
                   {.x = slice(store_.values(), run.range),
                    .m = slice(first_moment(), run.range),
                    .v = slice(second_moment(), run.range),
                    .grad = slice(grads, run.range),
                    .learning_rate = static_cast<float>(rates.learning_rate),
                    .beta1 = static_cast<float>(beta1),
                    .beta2 = static_cast<float>(config_.beta2),
                    .eps = static_cast<float>(config_.eps),
                    .weight_decay = run.decays ? static_cast<float>(config_.weight_decay) : 0.0F,
                    .grad_scale = clipped ? static_cast<float>(config_.clip_norm / norm) : 1.0F,
                    .bias_correction1 = 1.0 - std::pow(beta1, updates),
                    .bias_correction2 = 1.0 - std::pow(config_.beta2, updates)});
  }
  return {.clipped = clipped, .skipped = false};
}

}  // namespace stipple::trainer
