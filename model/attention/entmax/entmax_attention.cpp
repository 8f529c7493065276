// SPDX-License-Identifier: Apache-2.0
#include "model/attention/entmax/entmax_attention.h"

#include <cmath>

#include "core/copy.h"
#include "model/attention/entmax/support_graph.h"
#include "model/attention/kept_tokens.h"
#include "model/attention/softmax/softmax_attention.h"

namespace stipple::model {
namespace {

/// Row and head of x [B, H, N, D], as [1, 1, N, D].
ConstRealView problem_of(ConstRealView x, int64_t row, int64_t head) {
  return with_real_type(x.precision, [&](auto zero) -> ConstRealView {
    const auto of_head = x.as<decltype(zero)>().at(row).at(head);
    return of_head.reshape({1, 1, x.shape[2], x.shape[3]});
  });
}

template <class T>
View<T> one_head(View<T> x, int64_t head) {
  return x.empty() ? x : View<T>{x.data + head, {1}};
}

/// Of one problem whose rows all had room.
kernels::EdgeList download_support(const Stream& stream, const kernels::EntmaxSupport& support) {
  std::vector<int32_t> size(static_cast<size_t>(support.size.numel()));
  std::vector<uint32_t> columns(static_cast<size_t>(support.columns.numel()));
  download(stream, std::span<int32_t>(size), support.size);
  download(stream, std::span<uint32_t>(columns), support.columns);
  kernels::EdgeList edges;
  edges.row_ptr.push_back(0);
  const auto room = static_cast<size_t>(support.columns.shape[3]);
  for (size_t i = 0; i < size.size(); ++i) {
    const auto first = columns.begin() + static_cast<int64_t>(i * room);
    edges.columns.insert(edges.columns.end(), first, first + size[i]);
    edges.row_ptr.push_back(static_cast<int64_t>(edges.columns.size()));
  }
  return edges;
}

}  // namespace

EntmaxAttention::EntmaxAttention(const AttentionConfig& config, ParameterStore& store,
                                 FactTable& facts, const AttentionShape& shape)
    : num_heads_(shape.num_heads),
      head_dim_(shape.head_dim),
      heads_(config.entmax, store, facts, shape.name, shape.num_heads),
      facts_(facts, shape.num_heads),
      scale_(static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_dim)))),
      pattern_{.is_causal = shape.is_causal},
      dropout_rate_(static_cast<float>(config.dropout)) {}

AttentionTraits EntmaxAttention::traits(const AttentionConfig& config) {
  return {.has_graph = !config.entmax.is_softmax(), .can_be_causal = true};
}

void EntmaxAttention::validate(const AttentionConfig& config) { config.entmax.validate(); }

std::unique_ptr<Attention::Saved> EntmaxAttention::make_saved() const {
  return std::make_unique<Saved>();
}

void EntmaxAttention::begin_step(const Stream& stream, const RngKey& rng) const {
  heads_.begin_step(stream, rng);
}

void EntmaxAttention::do_forward(Context& ctx, const AttentionInputs& in, RealView out,
                                 Attention::Saved& base) const {
  Saved& saved = static_cast<Saved&>(base);
  const Shape& shape = in.q.shape;
  saved.tau = ctx.saved.alloc<float>({shape[0], shape[1], shape[2]});
  saved.support = kernels::alloc_entmax_support(ctx.saved, shape[0], shape[1], shape[2]);
  saved.o2 = ctx.training ? ctx.saved.alloc(ctx.precision(), shape) : RealView{};
  saved.heads = heads_.forward(ctx);
  kernels::attend_entmax(ctx.stream, {.o = out,
                                      .o2 = saved.o2,
                                      .tau = saved.tau,
                                      .support = saved.support,
                                      .q = in.q,
                                      .k = in.k,
                                      .v = in.v,
                                      .heads = saved.heads,
                                      .key_mask = in.mask,
                                      .pattern = pattern_,
                                      .scale = scale_,
                                      .dropout = dropout_of(ctx, in, dropout_rate_, {}),
                                      .scratch = &ctx.scratch});
  facts_.tell(ctx, in, saved.support, pattern_.is_causal);
}

void EntmaxAttention::do_backward(Context& ctx, const AttentionInputs& in, ConstRealView,
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
                                               .key_mask = in.mask,
                                               .pattern = pattern_,
                                               .scale = scale_,
                                               .dropout = dropout_of(ctx, in, dropout_rate_, {}),
                                               .scratch = &ctx.scratch});
  heads_.backward(ctx, dalpha, dtemperature);
}

std::unique_ptr<AttentionCache> EntmaxAttention::make_cache(Arena& arena, const Stream& stream,
                                                            int64_t longest) const {
  return std::make_unique<KeptTokens>(arena, stream, num_heads_, longest, head_dim_);
}

void EntmaxAttention::do_decode(Context& ctx, const AttentionInputs& in, RealView out,
                                AttentionCache& base) const {
  KeptTokens& cache = static_cast<KeptTokens&>(base);
  cache.add(ctx, in);
  const Arena::Scope scope(ctx.scratch);
  kernels::attend_entmax(ctx.stream, {.o = out,
                                      .tau = ctx.scratch.alloc<float>({1, num_heads_, 1}),
                                      .q = in.q,
                                      .k = cache.k,
                                      .v = cache.v,
                                      .heads = heads_.forward(ctx),
                                      .key_mask = cache.mask,
                                      .scale = scale_,
                                      .scratch = &ctx.scratch});
}

// --- graphs --------------------------------------------------------------------------------------

/// The whole support of one head, whatever its size: forward once more, with room for all keys.
kernels::EdgeList EntmaxAttention::support_of(Context& ctx, const AttentionInputs& in,
                                              const Saved& saved, int64_t row, int64_t head) const {
  const int64_t n = in.q.shape[2], m = in.k.shape[2];
  const ConstRealView q = problem_of(in.q, row, head);
  const size_t bytes = q.bytes() + static_cast<size_t>(n * (m + 2)) * sizeof(float);
  constexpr size_t kArrays = 4;
  Arena memory("graph", ctx.stream.device(), bytes + kArrays * Buffer::kAlignment);
  const kernels::EntmaxSupport support{.size = memory.alloc<int32_t>({1, 1, n}),
                                       .columns = memory.alloc<uint32_t>({1, 1, n, m})};
  kernels::attend_entmax(ctx.stream,
                         {.o = memory.alloc(q.precision, q.shape),
                          .tau = memory.alloc<float>({1, 1, n}),
                          .support = support,
                          .q = q,
                          .k = problem_of(in.k, row, head),
                          .v = problem_of(in.v, row, head),
                          .heads = {.alpha = one_head(saved.heads.alpha, head),
                                    .temperature = one_head(saved.heads.temperature, head)},
                          .key_mask = in.mask.at(row).reshape({1, m}),
                          .pattern = pattern_,
                          .scale = scale_,
                          .scratch = &ctx.scratch});
  return download_support(ctx.stream, support);
}

void EntmaxAttention::tell_graphs(Context& ctx, const AttentionInputs& in,
                                  const Attention::Saved& base) const {
  const Saved& saved = static_cast<const Saved&>(base);
  for (int64_t row = 0; row < in.q.shape[0]; ++row) {
    if (!ctx.graphs->wants(row)) continue;
    const std::vector<int64_t> tokens = download_tokens(ctx.stream, in.mask, row);
    auto graph = std::make_unique<SupportGraph>();
    graph->layer = ctx.layer;
    graph->row = row;
    graph->tokens = static_cast<int64_t>(tokens.size());
    for (int64_t head = 0; head < in.q.shape[1]; ++head) {
      graph->edges.push_back(
          kernels::subgraph(support_of(ctx, in, saved, row, head), in.k.shape[2], tokens, tokens));
    }
    ctx.graphs->take(std::move(graph));
  }
}

std::unique_ptr<Attention> make_entmax_attention(const AttentionConfig& config,
                                                 ParameterStore& store, FactTable& facts,
                                                 const AttentionShape& shape) {
  if (config.entmax.is_softmax())
    return std::make_unique<SoftmaxAttention>(config, store, facts, shape);
  return std::make_unique<EntmaxAttention>(config, store, facts, shape);
}

}  // namespace stipple::model
