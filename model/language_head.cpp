// SPDX-License-Identifier: Apache-2.0
#include "model/language_head.h"

#include <algorithm>

#include "core/copy.h"
#include "kernels/activation.h"
#include "kernels/cross_entropy.h"
#include "kernels/matmul.h"
#include "kernels/runs.h"
#include "model/logit_chunks.h"
#include "model/rows.h"

namespace stipple::model {
namespace {

constexpr int64_t kPlaces = 8;

}  // namespace

LanguageHead::LanguageHead(const ParameterStore& store, FactTable& facts,
                           const LanguageHeadConfig& config)
    : store_(store),
      config_(config),
      loss_sum_(facts.declare<double>(kLossSum)),
      count_(facts.declare<int64_t>(kLabels)),
      correct_(facts.declare<int64_t>("correct")),
      place_loss_(facts.declare<double>(kPlaceLoss, kPlaces)),
      place_labels_(facts.declare<int64_t>(kPlaceLabels, kPlaces)) {}

void LanguageHead::logits(Context& ctx, View<const float> x, View<float> logits) const {
  kernels::matmul(ctx.stream, {.c = logits,
                               .a = x,
                               .b = store_.value(config_.table),
                               .transpose_b = true,
                               .alpha = config_.logit_scale,
                               .scratch = &ctx.scratch});
}

void LanguageHead::tell_places(Context& ctx, const Input& input, Range chunk,
                               View<const float> losses) const {
  kernels::loss_by_place(ctx.stream,
                         {.loss_sum = ctx.facts.at<double>(place_loss_),
                          .count = ctx.facts.at<int64_t>(place_labels_),
                          .row_loss = rows_of(losses, {0, chunk.size()}),
                          .labels = rows_of(input.labels.reshape({input.labels.numel()}), chunk),
                          .first_row = chunk.begin,
                          .sequence = input.labels.shape[1],
                          .block = config_.block});
}

void LanguageHead::forward(Context& ctx, const Input& input, View<const float> x,
                           View<int32_t> prediction, Saved& saved) const {
  const View<const float> table = store_.value(config_.table);
  const int64_t rows = x.shape[0] * x.shape[1], width = x.shape[2], vocabulary = table.shape[0];
  const View<const float> x_rows = x.reshape({rows, width});
  const View<const int32_t> labels = input.labels.reshape({rows});
  saved = {};
  View<float> dx_rows;
  if (ctx.training) {
    saved = {.dx = ctx.saved.alloc<float>(x.shape), .dtable = ctx.saved.alloc<float>(table.shape)};
    dx_rows = saved.dx.reshape({rows, width});
  }
  const int64_t run = rows_of_logit_chunk(vocabulary);
  Arena::Scope scope(ctx.scratch);
  const View<float> memory = ctx.scratch.alloc<float>({std::min(rows, run), vocabulary});
  View<float> losses;
  if (!ctx.training) losses = ctx.scratch.alloc<float>({std::min(rows, run)});
  for (int64_t i = 0; i < kernels::num_runs(rows, run); ++i) {
    const Range chunk = kernels::nth_run(i, rows, run);
    const View<float> logits = rows_of(memory, {0, chunk.size()});
    const View<const float> x_chunk = rows_of(x_rows, chunk);
    this->logits(ctx, x_chunk, logits);
    kernels::cross_entropy(
        ctx.stream,
        {.dlogits = ctx.training ? logits : View<float>{},
         .loss_sum = ctx.facts.at<double>(loss_sum_),
         .correct = ctx.facts.at<int64_t>(correct_),
         .count = ctx.facts.at<int64_t>(count_),
         .prediction = prediction.empty() ? prediction : rows_of(prediction.reshape({rows}), chunk),
         .row_loss = ctx.training ? losses : rows_of(losses, {0, chunk.size()}),
         .logits = logits,
         .labels = rows_of(labels, chunk),
         .scale = input.loss_scale,
         .scratch = &ctx.scratch});
    if (!ctx.training) {
      tell_places(ctx, input, chunk, losses);
      continue;
    }
    kernels::matmul(ctx.stream, {.c = rows_of(dx_rows, chunk),
                                 .a = logits,
                                 .b = table,
                                 .alpha = config_.logit_scale,
                                 .scratch = &ctx.scratch});
    kernels::matmul(ctx.stream, {.c = saved.dtable,
                                 .a = logits,
                                 .b = x_chunk,
                                 .transpose_a = true,
                                 .alpha = config_.logit_scale,
                                 .beta = i == 0 ? 0.0f : 1.0f,
                                 .scratch = &ctx.scratch});
  }
}

void LanguageHead::backward(Context& ctx, const Saved& saved, View<float> dx) const {
  copy_bytes(ctx.stream, dx.data, saved.dx.data, dx.bytes());
  const View<float> dtable = store_.grad(config_.table);
  kernels::add(ctx.stream, {.y = dtable, .a = dtable, .b = saved.dtable});
}

}  // namespace stipple::model
