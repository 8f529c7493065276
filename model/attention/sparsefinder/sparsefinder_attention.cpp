// SPDX-License-Identifier: Apache-2.0
#include "model/attention/sparsefinder/sparsefinder_attention.h"

#include <algorithm>

#include "core/error.h"
#include "model/attention/entmax/support_graph.h"

namespace stipple::model {

SparsefinderAttention::SparsefinderAttention(const AttentionConfig& config, ParameterStore& store,
                                             FactTable& facts, const AttentionShape& shape)
    : config_(config.sparsefinder),
      predictor_(config.sparsefinder, store, facts, shape),
      entmax_(config, store, facts, shape),
      facts_(facts, shape.num_heads, config.sparsefinder.measure,
             config.sparsefinder.mode == SparsefinderMode::kCertified) {
  if (config_.switches_heads())
    gate_.emplace(store, facts, shape.name, shape.num_heads);
  else if (config_.gate > 0)
    HeadGate::declare(store, shape.name, shape.num_heads);  // to load what such a run has saved
}

AttentionTraits SparsefinderAttention::traits(const AttentionConfig& config) {
  return {.has_graph = true,
          .can_be_causal = config.sparsefinder.can_be_causal(),
          .if_causal = config.sparsefinder.if_causal()};
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
  entmax_.begin_step(stream, rng);
}

void SparsefinderAttention::do_forward(Context& ctx, const AttentionInputs& in, RealView out,
                                       Attention::Saved& base) const {
  Saved& saved = static_cast<Saved&>(base);
  saved.graph = predictor_.predict(ctx, in, facts_.overflow(ctx));
  if (gate_) gate_->read(ctx, saved.over_edges);
  entmax_.forward(ctx, in, pairs_of(ctx, in, saved), out, saved);
  facts_.tell_graph(ctx, in, saved.graph, saved.support, entmax_.is_causal());
  if (config_.mode == SparsefinderMode::kCertified) facts_.tell_computed(ctx, in, saved.edges);
  if (config_.measure && !ctx.training) measure(ctx, in, saved);
}

bool SparsefinderAttention::was_exact(const Saved& saved) const {
  return config_.is_exact() && std::ranges::count(saved.over_edges, uint8_t{1}) == 0;
}

kernels::EdgeSet SparsefinderAttention::pairs_of(Context& ctx, const AttentionInputs& in,
                                                 const Saved& saved) const {
  if (config_.mode == SparsefinderMode::kFull && !gate_) return {};
  if (config_.mode != SparsefinderMode::kCertified) return saved.graph;
  // Attention over some pairs tells what a key must score at least to have any weight among all.
  const Arena::Scope scope(ctx.scratch);
  const kernels::EntmaxHeads heads = entmax_.heads(ctx);
  const EntmaxOverPairs::Rows lower = EntmaxOverPairs::alloc_rows(ctx.scratch, in.q, /*room=*/1);
  entmax_.over_pairs(ctx, in, heads, saved.graph, lower);
  return predictor_.certify(ctx, in, heads, entmax_.scale(), lower.tau,
                            facts_.computed_overflow(ctx));
}

/// The graph beside exact attention, which a predicted one must compute for it.
void SparsefinderAttention::measure(Context& ctx, const AttentionInputs& in,
                                    const Saved& saved) const {
  const Arena::Scope scope(ctx.scratch);
  EntmaxOverPairs::Rows exact{saved.tau, saved.support, {}};
  if (!was_exact(saved) || (gate_ && ctx.stream.is_plan())) {
    exact = EntmaxOverPairs::alloc_rows(ctx.scratch, in.q);
    entmax_.over_all_pairs(ctx, in, saved.heads, exact);
  }
  facts_.tell_recall(ctx, in, saved.graph, {.tau = exact.tau, .support_size = exact.support.size},
                     saved.heads, entmax_.scale());
}

void SparsefinderAttention::do_backward(Context& ctx, const AttentionInputs& in, ConstRealView,
                                        ConstRealView dout, const Attention::Saved& base,
                                        const AttentionGrads& grads) const {
  entmax_.backward(ctx, in, dout, static_cast<const Saved&>(base), grads);
}

void SparsefinderAttention::tell_graphs(Context& ctx, const AttentionInputs& in,
                                        const Attention::Saved& base) const {
  const Saved& saved = static_cast<const Saved&>(base);
  tell_rows(ctx, in, [&](int64_t row, const std::vector<int64_t>& tokens) {
    auto graph = std::make_unique<SupportGraph>();
    graph->edges =
        ctx.graphs->wants_support()
            ? entmax_.supports(ctx, in, saved.heads,
                               was_exact(saved) ? saved.support : kernels::EntmaxSupport{}, row,
                               tokens)
            : download_heads(ctx.stream, saved.graph, row, in.q.shape[1], tokens);
    return graph;
  });
}

}  // namespace stipple::model
