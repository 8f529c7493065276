// SPDX-License-Identifier: Apache-2.0
#include "model/attention/entmax/entmax_head_layer.h"

#include <algorithm>
#include <cmath>

#include "core/copy.h"
#include "kernels/entmax_heads.h"

namespace stipple::model {
namespace {

/// Where learned alphas start, under the sigmoid.
double first_weight(const EntmaxConfig& c) {
  const double share = (c.alpha - c.alpha_range.low) / (c.alpha_range.high - c.alpha_range.low);
  return std::log(share / (1 - share));
}

}  // namespace

EntmaxHeadLayer::EntmaxHeadLayer(const EntmaxConfig& config, ParameterStore& store,
                                 FactTable& facts, const std::string& name, int64_t heads)
    : store_(store),
      from_(std::max(config.anneal_from, static_cast<double>(kernels::kEntmaxHeldAbove))),
      to_(config.alpha),
      steps_(config.anneal_steps),
      low_(static_cast<float>(config.learn_alpha ? config.alpha_range.low : config.alpha)),
      high_(static_cast<float>(config.alpha_range.high)),
      is_annealed_(config.is_annealed()),
      is_learned_(config.learn_alpha),
      has_temperature_(config.temperature == EntmaxTemperature::kLearned),
      heads_(heads) {
  if (is_learned_ || is_annealed_) {
    const double first = is_learned_ ? first_weight(config) : from_;
    alpha_ = store.declare(name + ".alpha", {heads}, Init::constant(first), Decay::kNo);
    alpha_fact_ = facts.declare_per_layer<float>("alpha", heads, Unite::kSame);
    facts.show({.name = "alpha", .title = "Alpha", .unit = "of entmax", .over = alpha_fact_});
  }
  if (has_temperature_) {
    temperature_ = store.declare(name + ".temperature", {heads}, Init::constant(0), Decay::kNo);
    temperature_fact_ = facts.declare_per_layer<float>("temperature", heads, Unite::kSame);
    facts.show({.name = "temperature",
                .title = "Temperature",
                .unit = "factor of scores",
                .over = temperature_fact_});
  }
}

void EntmaxHeadLayer::begin_step(const Stream& stream, const RngKey& rng) const {
  if (!is_annealed_) return;
  kernels::anneal(
      stream,
      {.values = store_.value(alpha_), .from = from_, .to = to_, .steps = steps_, .rng = rng});
}

kernels::EntmaxHeads EntmaxHeadLayer::forward(Context& ctx) const {
  kernels::SetEntmaxHeads args{.low = low_, .high = high_};
  if (!is_annealed_) args.alpha = ctx.saved.alloc<float>({heads_});
  if (is_learned_) args.alpha_weight = store_.value(alpha_);
  if (has_temperature_) {
    args.temperature = ctx.saved.alloc<float>({heads_});
    args.temperature_weight = store_.value(temperature_);
  }
  if (!is_annealed_ || has_temperature_) kernels::set_entmax_heads(ctx.stream, args);
  const kernels::EntmaxHeads heads{.alpha = is_annealed_ ? store_.value(alpha_) : args.alpha,
                                   .temperature = args.temperature};
  tell(ctx, heads);
  return heads;
}

void EntmaxHeadLayer::tell(Context& ctx, const kernels::EntmaxHeads& heads) const {
  const auto copy = [&](FactId fact, View<const float> values) {
    if (!fact.exists()) return;
    copy_bytes(ctx.stream, ctx.facts.at<float>(fact, ctx.layer).data, values.data, values.bytes());
  };
  copy(alpha_fact_, heads.alpha);
  copy(temperature_fact_, heads.temperature);
}

void EntmaxHeadLayer::backward(Context& ctx, View<const float> dalpha,
                               View<const float> dtemperature) const {
  kernels::SetEntmaxHeadsBackward args{
      .dalpha = dalpha, .dtemperature = dtemperature, .low = low_, .high = high_};
  if (is_learned_) {
    args.dalpha_weight = store_.grad(alpha_);
    args.alpha_weight = store_.value(alpha_);
  }
  if (has_temperature_) {
    args.dtemperature_weight = store_.grad(temperature_);
    args.temperature_weight = store_.value(temperature_);
  }
  if (is_learned_ || has_temperature_) kernels::set_entmax_heads_backward(ctx.stream, args);
}

}  // namespace stipple::model
