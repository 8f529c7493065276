// SPDX-License-Identifier: Apache-2.0
#include "model/layers/embedding.h"

#include <cmath>

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
  if (kind_ == Positions::kLearned) positions_ = declare(".positions", config.max_length);
  if (config.segments > 0) segments_ = declare(".segments", config.segments);
}

float Embedding::logit_scale() const {
  if (kind_ != Positions::kSinusoidal) return 1.0f;
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(width_)));
}

void Embedding::forward(Context& ctx, const Input& input, View<float> y, Saved& saved) const {
  saved = {.ids = input.ids, .segments = input.segments, .samples = input.samples};
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
                      .segments = input.segments,
                      .segment_table = segments_ ? store_.value(*segments_) : View<float>{}});
  dropout_.apply(ctx, input.samples, y);
}

void Embedding::backward(Context& ctx, const Saved& saved, View<float> dy) const {
  dropout_.apply(ctx, saved.samples, dy);
  kernels::embedding_backward(ctx.stream,
                              {.dtable = store_.grad(tokens_),
                               .dpositions = positions_ ? store_.grad(*positions_) : View<float>{},
                               .dy = dy,
                               .ids = saved.ids,
                               .scratch = &ctx.scratch});
  if (!segments_) return;
  kernels::embedding_backward(ctx.stream, {.dtable = store_.grad(*segments_),
                                           .dpositions = {},
                                           .dy = dy,
                                           .ids = saved.segments,
                                           .scratch = &ctx.scratch});
}

}  // namespace stipple::model
