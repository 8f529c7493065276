// SPDX-License-Identifier: Apache-2.0
#include "model/layers/embedding.h"

#include "kernels/embedding.h"

namespace stipple::model {
namespace {

constexpr double kInitStddev = 0.02;

}  // namespace

Embedding::Embedding(ParameterStore& store, const std::string& name, int64_t vocab_size,
                     int64_t max_length, int64_t width, double dropout)
    : store_(store),
      dropout_{.rate = static_cast<float>(dropout), .layer = 0, .site = DropoutSite::kEmbedding} {
  const Init init = Init::normal(kInitStddev);
  tokens_ = store.declare(name + ".tokens", {vocab_size, width}, init, Decay::kNo);
  positions_ = store.declare(name + ".positions", {max_length, width}, init, Decay::kNo);
}

void Embedding::forward(Context& ctx, View<const int32_t> ids, View<const uint32_t> samples,
                        View<float> y, Saved& saved) const {
  saved = {.ids = ids, .samples = samples};
  kernels::embedding(
      ctx.stream,
      {.y = y, .ids = ids, .table = store_.value(tokens_), .positions = store_.value(positions_)});
  dropout_.apply(ctx, samples, y);
}

void Embedding::backward(Context& ctx, const Saved& saved, View<float> dy) const {
  dropout_.apply(ctx, saved.samples, dy);
  kernels::embedding_backward(ctx.stream, {.dtable = store_.grad(tokens_),
                                           .dpositions = store_.grad(positions_),
                                           .dy = dy,
                                           .ids = saved.ids,
                                           .scratch = &ctx.scratch});
}

}  // namespace stipple::model
