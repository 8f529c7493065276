// SPDX-License-Identifier: Apache-2.0
#include "model/attention/entmax/entmax_attention.h"

#include <algorithm>

#include "core/copy.h"
#include "model/attention/entmax/support_graph.h"
#include "model/attention/kept_tokens.h"
#include "model/attention/softmax/softmax_attention.h"

namespace stipple::model {
namespace {

/// Row and head of x [B, H, ...], as [1, 1, ...].
template <class T>
View<T> problem_of(View<T> x, int64_t row, int64_t head) {
  const View<T> own = x.at(row).at(head);
  return {own.data,
          x.shape.rank() == 3 ? Shape({1, 1, x.shape[2]}) : Shape({1, 1, x.shape[2], x.shape[3]})};
}
ConstRealView problem_of(ConstRealView x, int64_t row, int64_t head) {
  return with_real_type(x.precision, [&](auto zero) -> ConstRealView {
    return problem_of(x.as<decltype(zero)>(), row, head);
  });
}

View<const float> one_head(View<const float> x, int64_t head) {
  return x.empty() ? x : View<const float>{x.data + head, {1}};
}

std::vector<int32_t> download_sizes(const Stream& stream, const kernels::EntmaxSupport& support) {
  std::vector<int32_t> sizes(static_cast<size_t>(support.size.numel()));
  download(stream, std::span<int32_t>(sizes), support.size);
  return sizes;
}

/// Of one problem whose rows all had room.
kernels::EdgeList download_support(const Stream& stream, const kernels::EntmaxSupport& support) {
  const std::vector<int32_t> sizes = download_sizes(stream, support);
  std::vector<uint32_t> columns(static_cast<size_t>(support.columns.numel()));
  download(stream, std::span<uint32_t>(columns), support.columns);
  kernels::EdgeList edges;
  edges.row_ptr.push_back(0);
  auto first = columns.begin();
  for (const int32_t size : sizes) {
    edges.columns.insert(edges.columns.end(), first, first + size);
    edges.row_ptr.push_back(edges.num_edges());
    first += support.columns.shape[3];
  }
  return edges;
}

}  // namespace

EntmaxAttention::EntmaxAttention(const AttentionConfig& config, ParameterStore& store,
                                 FactTable& facts, const AttentionShape& shape)
    : num_heads_(shape.num_heads),
      head_dim_(shape.head_dim),
      entmax_(config, store, facts, shape),
      facts_(facts, shape.num_heads) {}

AttentionTraits EntmaxAttention::traits(const AttentionConfig& config) {
  return {.has_graph = !config.entmax.is_softmax(), .can_be_causal = true};
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

/// The support of one head. Where rows have more keys than are kept, forward sees it once more, with
/// room for the longest.
kernels::EdgeList EntmaxAttention::support_of(Context& ctx, const AttentionInputs& in,
                                              const Saved& saved, int64_t row, int64_t head) const {
  const kernels::EntmaxSupport kept = {problem_of(saved.support.size, row, head),
                                       problem_of(saved.support.columns, row, head)};
  const int64_t longest = std::ranges::max(download_sizes(ctx.stream, kept));
  if (longest <= kept.columns.shape[3]) return download_support(ctx.stream, kept);
  AttentionInputs problem = in;
  problem.q = problem_of(in.q, row, head);
  problem.k = problem_of(in.k, row, head);
  problem.v = problem_of(in.v, row, head);
  problem.mask = in.mask.at(row).reshape({1, in.mask.shape[1]});
  const auto room_for_all = [&](Arena& arena) {
    return EntmaxOverPairs::alloc_rows(arena, problem.q, longest);
  };
  Arena plan("graph");
  room_for_all(plan);
  Arena memory("graph", ctx.stream.device(), plan.peak());
  const EntmaxOverPairs::Rows rows = room_for_all(memory);
  entmax_.over_all_pairs(ctx, problem,
                         {.alpha = one_head(saved.heads.alpha, head),
                          .temperature = one_head(saved.heads.temperature, head)},
                         rows);
  return download_support(ctx.stream, rows.support);
}

void EntmaxAttention::tell_graphs(Context& ctx, const AttentionInputs& in,
                                  const Attention::Saved& base) const {
  const Saved& saved = static_cast<const Saved&>(base);
  tell_rows(ctx, in, [&](int64_t row, const std::vector<int64_t>& tokens) {
    auto graph = std::make_unique<SupportGraph>();
    for (int64_t head = 0; head < in.q.shape[1]; ++head) {
      graph->edges.push_back(
          kernels::subgraph(support_of(ctx, in, saved, row, head), in.k.shape[2], tokens, tokens));
    }
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
