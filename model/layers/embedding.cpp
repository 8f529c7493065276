// SPDX-License-Identifier: Apache-2.0
#include "model/layers/embedding.h"

#include <cmath>

#include "core/copy.h"
#include "kernels/embedding.h"
#include "kernels/positions.h"
#include "model/rows.h"

namespace stipple::model {
namespace {

constexpr double kInitStddev = 0.02;

}  // namespace

Embedding::Embedding(ParameterStore& store, const std::string& name, const EmbeddingConfig& config)
    : store_(store),
      kind_(config.positions),
      width_(config.width),
      dropout_{.rate = static_cast<float>(config.dropout), .site = DropoutSite::kEmbedding} {
  const Init init = Init::normal(kind_ == Positions::kSinusoidal ? 1.0 : kInitStddev);
  const auto declare = [&](const char* what, int64_t rows) {
    return store.declare(name + what, {rows, config.width}, init, Decay::kNo);
  };
  tokens_ = declare(".tokens", config.vocab_size);
  if (kind_ == Positions::kLearned) positions_ = declare(".positions", config.max_positions);
  if (config.segments > 0) segments_ = declare(".segments", config.segments);
  if (config.has_norm) norm_.emplace(store, name + ".norm", config.width, config.norm_eps);
}

float Embedding::logit_scale() const {
  if (kind_ != Positions::kSinusoidal) return 1.0f;
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(width_)));
}

/// Segments as the table is asked for them; of scratch memory where they are not given.
View<const int32_t> Embedding::kinds(Context& ctx, const Shape& tokens,
                                     View<const int32_t> segments) const {
  if (!segments_ || !segments.empty()) return segments;
  const View<int32_t> zeros = ctx.scratch.alloc<int32_t>(tokens);
  fill_zero(ctx.stream, zeros);
  return zeros;
}

void Embedding::look_up(Context& ctx, const Input& input, View<float> y) const {
  const Arena::Scope scope(ctx.scratch);
  View<float> positions;
  if (positions_) positions = store_.value(*positions_);
  if (kind_ == Positions::kSinusoidal) {
    positions = ctx.scratch.alloc<float>({ctx.first_position() + y.shape[1], y.shape[2]});
    kernels::sinusoidal_positions(ctx.stream, {.y = positions});
  }
  if (!positions.empty()) positions = rows_from(positions, ctx.first_position());
  kernels::embedding(ctx.stream,
                     {.y = y,
                      .ids = input.ids,
                      .table = store_.value(tokens_),
                      .positions = positions,
                      .segments = kinds(ctx, input.ids.shape, input.segments),
                      .segment_table = segments_ ? store_.value(*segments_) : View<float>{}});
}

void Embedding::forward(Context& ctx, const Input& input, View<float> y, Saved& saved) const {
  saved = {.ids = input.ids, .segments = input.segments, .samples = input.samples, .norm = {}};
  if (norm_) {
    const View<float> sum = ctx.saved.alloc<float>(y.shape);
    look_up(ctx, input, sum);
    norm_->forward(ctx, sum, y, saved.norm);
  } else {
    look_up(ctx, input, y);
  }
  dropout_.apply(ctx, input.samples, y);
}

void Embedding::backward(Context& ctx, const Saved& saved, View<float> dy) const {
  dropout_.apply(ctx, saved.samples, dy);
  if (norm_) norm_->backward(ctx, saved.norm, dy, dy);
  kernels::embedding_backward(ctx.stream,
                              {.dtable = store_.grad(tokens_),
                               .dpositions = positions_ ? store_.grad(*positions_) : View<float>{},
                               .dy = dy,
                               .ids = saved.ids,
                               .scratch = &ctx.scratch});
  if (!segments_) return;
  const Arena::Scope scope(ctx.scratch);
  kernels::embedding_backward(ctx.stream, {.dtable = store_.grad(*segments_),
                                           .dpositions = {},
                                           .dy = dy,
                                           .ids = kinds(ctx, saved.ids.shape, saved.segments),
                                           .scratch = &ctx.scratch});
}

}  // namespace stipple::model
