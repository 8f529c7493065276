// SPDX-License-Identifier: Apache-2.0
#include "model/layers/embedding.h"

#include <cmath>

#include "core/copy.h"
#include "kernels/activation.h"
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
  const Init init = Init::normal(kind_ == Positions::kSinusoidal ? 1.0 : kInitStddev).usual();
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

/// From the first position of the rows on, for as many as `tokens`; empty: none are added. Of scratch
/// memory where they are not learned.
View<const float> Embedding::position_table(Context& ctx, int64_t tokens) const {
  if (positions_)
    return rows_from(View<const float>(store_.value(*positions_)), ctx.first_position());
  if (kind_ != Positions::kSinusoidal) return {};
  const View<float> sines = ctx.scratch.alloc<float>({ctx.first_position() + tokens, width_});
  kernels::sinusoidal_positions(ctx.stream, {.y = sines});
  return rows_from(View<const float>(sines), ctx.first_position());
}

/// As look_up() adds them, in the same order: a position is looked up as a kind of token there.
void Embedding::look_up_packed(Context& ctx, const Input& input, View<const float> positions,
                               View<float> y) const {
  kernels::embedding(ctx.stream,
                     {.y = y,
                      .ids = input.ids,
                      .table = store_.value(tokens_),
                      .positions = {},
                      .segments = positions.empty() ? View<const int32_t>{} : input.positions,
                      .segment_table = positions});
  if (!segments_) return;
  const View<float> of_segments = ctx.scratch.alloc<float>(y.shape);
  kernels::embedding(ctx.stream, {.y = of_segments,
                                  .ids = kinds(ctx, input.ids.shape, input.segments),
                                  .table = store_.value(*segments_),
                                  .positions = {}});
  kernels::add(ctx.stream, {.y = y, .a = y, .b = of_segments});
}

void Embedding::look_up(Context& ctx, const Input& input, View<float> y) const {
  const Arena::Scope scope(ctx.scratch);
  const View<const float> positions = position_table(ctx, y.shape[1]);
  if (!input.positions.empty()) return look_up_packed(ctx, input, positions, y);
  kernels::embedding(ctx.stream,
                     {.y = y,
                      .ids = input.ids,
                      .table = store_.value(tokens_),
                      .positions = positions,
                      .segments = kinds(ctx, input.ids.shape, input.segments),
                      .segment_table = segments_ ? store_.value(*segments_) : View<float>{}});
}

void Embedding::forward(Context& ctx, const Input& input, View<float> y, Saved& saved) const {
  saved = {.ids = input.ids,
           .segments = input.segments,
           .positions = input.positions,
           .samples = input.samples,
           .norm = {}};
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
  const bool is_packed = !saved.positions.empty();
  const View<float> dpositions = positions_ ? store_.grad(*positions_) : View<float>{};
  const auto add_to = [&](View<float> dtable, View<float> by_place, View<const int32_t> ids) {
    kernels::embedding_backward(
        ctx.stream,
        {.dtable = dtable, .dpositions = by_place, .dy = dy, .ids = ids, .scratch = &ctx.scratch});
  };
  add_to(store_.grad(tokens_), is_packed ? View<float>{} : dpositions, saved.ids);
  if (is_packed && positions_) add_to(dpositions, {}, saved.positions);
  if (!segments_) return;
  const Arena::Scope scope(ctx.scratch);
  add_to(store_.grad(*segments_), {}, kinds(ctx, saved.ids.shape, saved.segments));
}

}  // namespace stipple::model
