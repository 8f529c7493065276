// SPDX-License-Identifier: Apache-2.0
#include "model/masked_head.h"

#include "core/copy.h"
#include "kernels/activation.h"
#include "kernels/cross_entropy.h"
#include "kernels/embedding.h"
#include "kernels/matmul.h"
#include "kernels/runs.h"
#include "model/logit_chunks.h"
#include "model/rows.h"

namespace stipple::model {

MaskedHead::MaskedHead(ParameterStore& store, FactTable& facts, const std::string& name,
                       const MaskedHeadConfig& config)
    : store_(store),
      config_(config),
      loss_sum_(facts.declare<double>(kLossSum)),
      count_(facts.declare<int64_t>(kLabels)),
      correct_(facts.declare<int64_t>("correct")),
      dense_(store, name + ".dense", config.width, config.width),
      norm_(store, name + ".norm", config.width, config.norm_eps),
      bias_(store.declare(name + ".bias", {store.entry(config.table).shape[0]}, Init::constant(0),
                          Decay::kNo)) {}

View<float> MaskedHead::transform(Context& ctx, View<const float> x, Saved& saved) const {
  saved.before_gelu = ctx.saved.alloc<float>(x.shape);
  const View<float> activated = ctx.saved.alloc<float>(x.shape);
  const View<float> normed = ctx.saved.alloc<float>(x.shape);
  dense_.forward(ctx, x, saved.before_gelu, saved.dense);
  kernels::activation(ctx.stream, {.y = activated, .x = saved.before_gelu});
  norm_.forward(ctx, activated, normed, saved.norm);
  return normed;
}

void MaskedHead::project(Context& ctx, View<const float> normed, View<float> logits) const {
  kernels::linear(ctx.stream, {.y = logits,
                               .x = normed,
                               .weight = store_.value(config_.table),
                               .bias = store_.value(bias_),
                               .scratch = &ctx.scratch});
}

void MaskedHead::logits(Context& ctx, View<const float> x, View<float> logits) const {
  Saved saved;
  project(ctx, transform(ctx, x, saved), logits);
}

void MaskedHead::lose(Context& ctx, const Input& input, View<const float> normed,
                      Saved& saved) const {
  const View<const float> table = store_.value(config_.table);
  const int64_t rows = normed.shape[0], vocabulary = table.shape[0];
  const int64_t run = rows_of_logit_chunk(vocabulary);
  Arena::Scope scope(ctx.scratch);
  const View<float> memory = ctx.scratch.alloc<float>({std::min(rows, run), vocabulary});
  for (int64_t i = 0; i < kernels::num_runs(rows, run); ++i) {
    const Range chunk = kernels::nth_run(i, rows, run);
    const View<float> logits = rows_of(memory, {0, chunk.size()});
    project(ctx, rows_of(normed, chunk), logits);
    kernels::cross_entropy(ctx.stream, {.dlogits = ctx.training ? logits : View<float>{},
                                        .loss_sum = ctx.facts.at<double>(loss_sum_),
                                        .correct = ctx.facts.at<int64_t>(correct_),
                                        .count = ctx.facts.at<int64_t>(count_),
                                        .logits = logits,
                                        .labels = rows_of(input.row_labels, chunk),
                                        .scale = input.loss_scale,
                                        .scratch = &ctx.scratch});
    if (!ctx.training) continue;
    kernels::linear_backward(ctx.stream, {.dx = rows_of(saved.dnormed, chunk),
                                          .dweight = saved.dtable,
                                          .dbias = saved.dbias,
                                          .dy = logits,
                                          .x = rows_of(normed, chunk),
                                          .weight = table,
                                          .scratch = &ctx.scratch});
  }
}

void MaskedHead::forward(Context& ctx, const Input& input, View<const float> x,
                         Saved& saved) const {
  const int64_t tokens = x.shape[0] * x.shape[1], width = config_.width;
  // One at least: a row without a label has no loss and no gradient, and nothing need be empty.
  const int64_t rows = std::max<int64_t>(1, input.num_labels.value_or(tokens));
  saved = {};
  saved.rows = rows_of(input.label_rows, {0, rows});
  const View<float> gathered = ctx.saved.alloc<float>({rows, width});
  kernels::embedding(ctx.stream, {.y = gathered.reshape({1, rows, width}),
                                  .ids = saved.rows.reshape({1, rows}),
                                  .table = x.reshape({tokens, width}),
                                  .positions = {}});
  const View<float> normed = transform(ctx, gathered, saved);
  if (ctx.training) {
    const View<const float> table = store_.value(config_.table);
    saved.dnormed = ctx.saved.alloc<float>(normed.shape);
    saved.dtable = ctx.saved.alloc<float>(table.shape);
    saved.dbias = ctx.saved.alloc<float>({table.shape[0]});
    fill_zero(ctx.stream, saved.dtable);
    fill_zero(ctx.stream, saved.dbias);
  }
  lose(ctx, input, normed, saved);
}

void MaskedHead::backward(Context& ctx, const Saved& saved, View<float> dx) const {
  Arena::Scope scope(ctx.scratch);
  const int64_t rows = saved.rows.numel(), width = config_.width;
  const View<float> d = ctx.scratch.alloc<float>({rows, width});
  const View<float> dgathered = ctx.scratch.alloc<float>({rows, width});
  norm_.backward(ctx, saved.norm, saved.dnormed, d);
  kernels::activation_backward(ctx.stream, {.dx = d, .dy = d, .saved = saved.before_gelu});
  dense_.backward(ctx, saved.dense, d, dgathered);
  fill_zero(ctx.stream, dx);
  kernels::embedding_backward(ctx.stream, {.dtable = dx.reshape({dx.numel() / width, width}),
                                           .dpositions = {},
                                           .dy = dgathered.reshape({1, rows, width}),
                                           .ids = saved.rows.reshape({1, rows}),
                                           .scratch = &ctx.scratch});
  const View<float> dtable = store_.grad(config_.table), dbias = store_.grad(bias_);
  kernels::add(ctx.stream, {.y = dtable, .a = dtable, .b = saved.dtable});
  kernels::add(ctx.stream, {.y = dbias, .a = dbias, .b = saved.dbias});
  ctx.observer.grads_ready(store_.range(dense_.first(), bias_));
}

}  // namespace stipple::model
