// SPDX-License-Identifier: Apache-2.0
#include "model/attention/entmax/entmax_attention.h"

#include "model/attention/entmax/support_graph.h"
#include "model/attention/kept_tokens.h"
#include "model/attention/softmax/softmax_attention.h"

namespace stipple::model {
EntmaxAttention::EntmaxAttention(const AttentionConfig& config, ParameterStore& store,
                                 FactTable& facts, const AttentionShape& shape)
    : num_heads_(shape.num_heads),
      head_dim_(shape.head_dim),
      entmax_(config, store, facts, shape),
      facts_(facts, shape.num_heads) {}

AttentionTraits EntmaxAttention::traits(const AttentionConfig& config) {
  return {.has_graph = !config.entmax.is_softmax(), .can_be_causal = true, .can_be_packed = true};
}

void EntmaxAttention::validate(const AttentionConfig& config) { config.entmax.validate(); }

std::unique_ptr<Attention::Saved> EntmaxAttention::make_saved() const {
  return std::make_unique<Saved>();
}

void EntmaxAttention::begin_step(const Stream& stream, const RngKey& rng) const {
  entmax_.begin_step(stream, rng);
}

void EntmaxAttention::do_forward(Context& ctx, const AttentionInputs& in, RealView out,
                                 Attention::Saved& base) const {
  Saved& saved = static_cast<Saved&>(base);
  entmax_.forward(ctx, in, {}, out, saved);
  facts_.tell(ctx, in, saved.support, entmax_.is_causal());
}

void EntmaxAttention::do_backward(Context& ctx, const AttentionInputs& in, ConstRealView,
                                  ConstRealView dout, const Attention::Saved& base,
                                  const AttentionGrads& grads) const {
  entmax_.backward(ctx, in, dout, static_cast<const Saved&>(base), grads);
}

std::unique_ptr<AttentionCache> EntmaxAttention::make_cache(Arena& arena, const Stream& stream,
                                                            int64_t longest) const {
  return std::make_unique<KeptTokens>(arena, stream, num_heads_, longest, head_dim_);
}

void EntmaxAttention::do_decode(Context& ctx, const AttentionInputs& in, RealView out,
                                AttentionCache& base) const {
  KeptTokens& cache = static_cast<KeptTokens&>(base);
  cache.add(ctx, in);
  AttentionInputs kept = in;
  kept.k = cache.k;
  kept.v = cache.v;
  kept.mask = cache.mask;
  entmax_.decode(ctx, kept, out);
}

// --- graphs --------------------------------------------------------------------------------------

void EntmaxAttention::tell_graphs(Context& ctx, const AttentionInputs& in,
                                  const Attention::Saved& base) const {
  const Saved& saved = static_cast<const Saved&>(base);
  tell_rows(ctx, in, [&](int64_t row, const std::vector<int64_t>& tokens) {
    auto graph = std::make_unique<SupportGraph>();
    graph->edges = entmax_.supports(ctx, in, saved.heads, saved.support, row, tokens);
    return graph;
  });
}

std::unique_ptr<Attention> make_entmax_attention(const AttentionConfig& config,
                                                 ParameterStore& store, FactTable& facts,
                                                 const AttentionShape& shape) {
  if (config.entmax.is_softmax())
    return std::make_unique<SoftmaxAttention>(config, store, facts, shape);
  return std::make_unique<EntmaxAttention>(config, store, facts, shape);
}

}  // namespace stipple::model
