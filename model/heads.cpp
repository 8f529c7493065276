// SPDX-License-Identifier: Apache-2.0
#include "model/heads.h"

#include "core/copy.h"
#include "core/error.h"
#include "kernels/cross_entropy.h"
#include "kernels/squared_error.h"

namespace stipple::model {

namespace {

HeadConfig with_pooler(HeadConfig config) {
  if (!config.has_pooler) return config;
  STIPPLE_CHECK_AS(ConfigError, !is_per_token(config.fields.label),
                   "model.pooler: is for tasks whose examples have one label each; use "
                   "model.pooler=false");
  config.hidden = config.fields.sequences * config.width;
  return config;
}

}  // namespace

Head::Head(ParameterStore& store, FactTable& facts, const std::string& name,
           const HeadConfig& config)
    : store_(store),
      config_(with_pooler(config)),
      loss_sum_(facts.declare<double>(config.fact_prefix + std::string(kLossSum))),
      count_(facts.declare<int64_t>(config.fact_prefix + std::string(kLabels))),
      hidden_(store, name + ".hidden",
              is_pooled() ? config.fields.sequences * config.width : config.width, config_.hidden),
      out_(store, config.out_name.empty() ? name + ".out" : config.out_name, config_.hidden,
           num_outputs()),
      dropout_{config.has_pooler ? static_cast<float>(config.dropout) : 0.0f, DropoutSite::kHead} {
  if (!is_value()) correct_ = facts.declare<int64_t>(config.fact_prefix + "correct");
}

kernels::ActivationKind Head::activation() const {
  return config_.has_pooler ? kernels::ActivationKind::kTanh : kernels::ActivationKind::kRelu;
}

/// Hidden units of pooled examples as dropout draws for them: [R, 1, hidden / sequences].
Shape Head::as_rows(int64_t labels) const {
  return {labels * config_.fields.sequences, 1, config_.hidden / config_.fields.sequences};
}

/// In place of `activated`, whose derivative backward reads of what it was.
View<float> Head::dropped(Context& ctx, const Input& input, View<float> activated) const {
  if (!ctx.training || dropout_.rate == 0.0f) return activated;
  const View<float> y = ctx.saved.alloc<float>(activated.shape);
  copy_bytes(ctx.stream, y.data, activated.data, y.bytes());
  dropout_.apply(ctx, input.samples, y.reshape(as_rows(y.shape[0])));
  return y;
}

void Head::classify(Context& ctx, const Input& input, View<float> out,
                    View<int32_t> prediction) const {
  const Shape labels{out.shape[0]};
  kernels::cross_entropy(
      ctx.stream, {.dlogits = ctx.training ? out : View<float>{},
                   .loss_sum = ctx.facts.at<double>(loss_sum_),
                   .correct = ctx.facts.at<int64_t>(*correct_),
                   .count = ctx.facts.at<int64_t>(count_),
                   .prediction = prediction.empty() ? prediction : prediction.reshape(labels),
                   .logits = out,
                   .labels = input.labels.reshape(labels),
                   .scale = input.loss_scale,
                   .scratch = &ctx.scratch});
}

void Head::measure(Context& ctx, const Input& input, View<float> out) const {
  const View<float> y = out.reshape({out.shape[0]});
  kernels::squared_error(ctx.stream, {.dy = ctx.training ? y : View<float>{},
                                      .loss_sum = ctx.facts.at<double>(loss_sum_),
                                      .count = ctx.facts.at<int64_t>(count_),
                                      .y = y,
                                      .target = input.values,
                                      .scale = input.loss_scale});
}

/// What the first layer reads: [labels, its inputs].
View<const float> Head::features(Context& ctx, const Input& input, View<const float> x) const {
  if (!is_pooled()) return x;
  const int64_t rows = x.shape[0], sequences = config_.fields.sequences;
  const View<float> pooled = ctx.saved.alloc<float>({rows, config_.width});
  kernels::pooling(ctx.stream, {.y = pooled,
                                .x = x,
                                .mask = input.mask,
                                .mean_over = config_.mean_over,
                                .padded_length = config_.max_length});
  return pooled.reshape({rows / sequences, sequences * config_.width});
}

void Head::pooled(Context& ctx, const Input& input, View<const float> x, View<float> y) const {
  Linear::Saved saved;
  hidden_.forward(ctx, features(ctx, input, x), y, saved);
  kernels::activation(ctx.stream, {.y = y, .x = y, .kind = activation()});
}

void Head::forward(Context& ctx, const Input& input, View<const float> x, View<int32_t> prediction,
                   Saved& saved) const {
  const int64_t rows = x.shape[0];
  const int64_t labels = is_pooled() ? rows / config_.fields.sequences : rows * x.shape[1];
  const View<const float> features = this->features(ctx, input, x);
  saved.activated = ctx.saved.alloc<float>({labels, config_.hidden});
  saved.dout = ctx.saved.alloc<float>({labels, num_outputs()});
  hidden_.forward(ctx, features, saved.activated, saved.hidden);
  kernels::activation(ctx.stream,
                      {.y = saved.activated, .x = saved.activated, .kind = activation()});
  out_.forward(ctx, dropped(ctx, input, saved.activated), saved.dout, saved.out);
  if (!ctx.outputs.empty()) {
    STIPPLE_CHECK_AS(ShapeError, ctx.outputs.shape == saved.dout.shape, "head: outputs have shape ",
                     ctx.outputs.shape.str(), ", expected ", saved.dout.shape.str());
    copy_bytes(ctx.stream, ctx.outputs.data, saved.dout.data, saved.dout.bytes());
  }
  if (!is_value()) return classify(ctx, input, saved.dout, prediction);
  STIPPLE_CHECK(prediction.empty(), "a model of numbers predicts no classes");
  measure(ctx, input, saved.dout);
}

void Head::backward(Context& ctx, const Input& input, const Saved& saved, View<float> dx) const {
  Arena::Scope scope(ctx.scratch);
  const View<float> dhidden = ctx.scratch.alloc<float>(saved.activated.shape);
  out_.backward(ctx, saved.out, saved.dout, dhidden);
  if (is_pooled()) dropout_.apply(ctx, input.samples, dhidden.reshape(as_rows(dhidden.shape[0])));
  kernels::activation_backward(
      ctx.stream, {.dx = dhidden, .dy = dhidden, .saved = saved.activated, .kind = activation()});
  if (!is_pooled()) {
    hidden_.backward(ctx, saved.hidden, dhidden, dx);
  } else {
    const View<float> dpooled = ctx.scratch.alloc<float>(saved.hidden.x.shape);
    hidden_.backward(ctx, saved.hidden, dhidden, dpooled);
    kernels::pooling_backward(ctx.stream, {.dx = dx,
                                           .dy = dpooled.reshape({dx.shape[0], config_.width}),
                                           .mask = input.mask,
                                           .mean_over = config_.mean_over,
                                           .padded_length = config_.max_length});
  }
  ctx.observer.grads_ready(store_.range(hidden_.first(), out_.last()));
}

}  // namespace stipple::model
