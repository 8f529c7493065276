// SPDX-License-Identifier: Apache-2.0
#include "model/layers/embedding.h"

#include "kernels/embedding.h"
#include "kernels/positions.h"

namespace stipple::model {
namespace {

constexpr double kInitStddev = 0.02;

}  // namespace

Embedding::Embedding(ParameterStore& store, const std::string& name, int64_t vocab_size,
                     int64_t max_length, int64_t width, Positions positions, double dropout)
    : store_(store),
      kind_(positions),
      dropout_{.rate = static_cast<float>(dropout), .site = DropoutSite::kEmbedding} {
  const Init init = Init::normal(positions == Positions::kSinusoidal ? 1.0 : kInitStddev);
  tokens_ = store.declare(name + ".tokens", {vocab_size, width}, init, Decay::kNo);
  if (positions != Positions::kLearned) return;
  positions_ = store.declare(name + ".positions", {max_length, width}, init, Decay::kNo);
}

void Embedding::forward(Context& ctx, View<const int32_t> ids, View<const uint32_t> samples,
                        View<float> y, Saved& saved) const {
  saved = {.ids = ids, .samples = samples};
  const Arena::Scope scope(ctx.scratch);
  View<float> positions;
  if (positions_) positions = store_.value(*positions_);
  if (kind_ == Positions::kSinusoidal) {
    positions = ctx.scratch.alloc<float>({y.shape[1], y.shape[2]});
    kernels::sinusoidal_positions(ctx.stream, {.y = positions});
  }
  kernels::embedding(ctx.stream,
                     {.y = y, .ids = ids, .table = store_.value(tokens_), .positions = positions});
  dropout_.apply(ctx, samples, y);
}

void Embedding::backward(Context& ctx, const Saved& saved, View<float> dy) const {
  dropout_.apply(ctx, saved.samples, dy);
  kernels::embedding_backward(ctx.stream,
                              {.dtable = store_.grad(tokens_),
                               .dpositions = positions_ ? store_.grad(*positions_) : View<float>{},
                               .dy = dy,
                               .ids = saved.ids,
                               .scratch = &ctx.scratch});
}

}  // namespace stipple::model
