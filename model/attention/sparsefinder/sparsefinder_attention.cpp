// SPDX-License-Identifier: Apache-2.0
#include "model/attention/sparsefinder/sparsefinder_attention.h"

#include <cmath>

#include "core/error.h"
#include "model/attention/entmax/support_graph.h"

namespace stipple::model {

SparsefinderAttention::SparsefinderAttention(const AttentionConfig& config, ParameterStore& store,
                                             FactTable& facts, const AttentionShape& shape)
    : config_(config.sparsefinder),
      predictor_(config.sparsefinder, store, shape),
      heads_(config.entmax, store, facts, shape.name, shape.num_heads),
      facts_(facts, shape.num_heads, config.sparsefinder.measure),
      scale_(static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_dim)))),
      pattern_{.is_causal = shape.is_causal},
      dropout_rate_(static_cast<float>(config.dropout)) {}

AttentionTraits SparsefinderAttention::traits(const AttentionConfig& config) {
  return {.has_graph = true, .can_be_causal = config.sparsefinder.can_be_causal()};
}

void SparsefinderAttention::validate(const AttentionConfig& config) {
  config.entmax.validate();
  STIPPLE_CHECK_AS(
      ConfigError, !config.entmax.is_softmax(),
      "attention.entmax.alpha: 1 is softmax, of which no graph can be predicted: every "
      "key has some weight; use more than 1");
  config.sparsefinder.validate();
}

std::unique_ptr<Attention::Saved> SparsefinderAttention::make_saved() const {
  return std::make_unique<Saved>();
}

void SparsefinderAttention::begin_step(const Stream& stream, const RngKey& rng) const {
  heads_.begin_step(stream, rng);
}

/// The graph that attention runs over; none: all pairs.
kernels::EdgeSet SparsefinderAttention::attended(const Saved& saved) const {
  return is_full() ? kernels::EdgeSet{} : saved.graph;
}

void SparsefinderAttention::do_forward(Context& ctx, const AttentionInputs& in, RealView out,
                                       Attention::Saved& base) const {
  Saved& saved = static_cast<Saved&>(base);
  const Shape& shape = in.q.shape;
  saved.tau = ctx.saved.alloc<float>({shape[0], shape[1], shape[2]});
  saved.support = kernels::alloc_entmax_support(ctx.saved, shape[0], shape[1], shape[2]);
  saved.o2 = ctx.training ? ctx.saved.alloc(ctx.precision(), shape) : RealView{};
  saved.heads = heads_.forward(ctx);
  saved.graph = predictor_.predict(ctx, in, facts_.overflow(ctx));
  kernels::attend_entmax(ctx.stream, {.o = out,
                                      .o2 = saved.o2,
                                      .tau = saved.tau,
                                      .support = saved.support,
                                      .q = in.q,
                                      .k = in.k,
                                      .v = in.v,
                                      .heads = saved.heads,
                                      .edges = attended(saved),
                                      .key_mask = in.mask,
                                      .pattern = pattern_,
                                      .scale = scale_,
                                      .dropout = dropout_of(ctx, in, dropout_rate_, {}),
                                      .scratch = &ctx.scratch});
  facts_.tell_graph(ctx, in, saved.graph, saved.support, pattern_.is_causal);
  if (config_.measure && !ctx.training) measure(ctx, in, saved);
}

/// The graph beside exact attention, which a predicted one must compute for it.
void SparsefinderAttention::measure(Context& ctx, const AttentionInputs& in,
                                    const Saved& saved) const {
  const Arena::Scope scope(ctx.scratch);
  PredictionFacts::Exact exact{.tau = saved.tau, .support_size = saved.support.size};
  if (!is_full()) {
    const Shape& shape = in.q.shape;
    const View<float> tau = ctx.scratch.alloc<float>(saved.tau.shape);
    const kernels::EntmaxSupport support =
        kernels::alloc_entmax_support(ctx.scratch, shape[0], shape[1], shape[2]);
    kernels::attend_entmax(ctx.stream, {.o = ctx.scratch.alloc(ctx.precision(), shape),
                                        .tau = tau,
                                        .support = support,
                                        .q = in.q,
                                        .k = in.k,
                                        .v = in.v,
                                        .heads = saved.heads,
                                        .key_mask = in.mask,
                                        .pattern = pattern_,
                                        .scale = scale_,
                                        .scratch = &ctx.scratch});
    exact = {.tau = tau, .support_size = support.size};
  }
  facts_.tell_recall(ctx, in, saved.graph, exact, saved.heads, scale_);
}

void SparsefinderAttention::do_backward(Context& ctx, const AttentionInputs& in, ConstRealView,
                                        ConstRealView dout, const Attention::Saved& base,
                                        const AttentionGrads& grads) const {
  const Saved& saved = static_cast<const Saved&>(base);
  const Arena::Scope scope(ctx.scratch);
  const auto shares = [&](bool are_asked) {
    return are_asked ? ctx.scratch.alloc<float>(saved.tau.shape) : View<float>{};
  };
  const View<float> dalpha = shares(heads_.learns_alpha());
  const View<float> dtemperature = shares(heads_.learns_temperature());
  kernels::attend_entmax_backward(ctx.stream, {.dq = grads.dq,
                                               .dk = grads.dk,
                                               .dv = grads.dv,
                                               .dalpha = dalpha,
                                               .dtemperature = dtemperature,
                                               .q = in.q,
                                               .k = in.k,
                                               .v = in.v,
                                               .o2 = saved.o2,
                                               .dout = dout,
                                               .tau = saved.tau,
                                               .support = saved.support,
                                               .heads = saved.heads,
                                               .edges = attended(saved),
                                               .key_mask = in.mask,
                                               .pattern = pattern_,
                                               .scale = scale_,
                                               .dropout = dropout_of(ctx, in, dropout_rate_, {}),
                                               .scratch = &ctx.scratch});
  heads_.backward(ctx, dalpha, dtemperature);
}

void SparsefinderAttention::tell_graphs(Context& ctx, const AttentionInputs& in,
                                        const Attention::Saved& base) const {
  const Saved& saved = static_cast<const Saved&>(base);
  for (int64_t row = 0; row < in.q.shape[0]; ++row) {
    if (!ctx.graphs->wants(row)) continue;
    const std::vector<int64_t> tokens = download_tokens(ctx.stream, in.mask, row);
    auto graph = std::make_unique<SupportGraph>();
    graph->layer = ctx.layer;
    graph->row = row;
    graph->tokens = static_cast<int64_t>(tokens.size());
    graph->edges = download_heads(ctx.stream, saved.graph, row, in.q.shape[1], tokens);
    ctx.graphs->take(std::move(graph));
  }
}

}  // namespace stipple::model
