// SPDX-License-Identifier: Apache-2.0
#include "model/attention/entmax/entmax_attention.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "core/copy.h"
#include "model/attention/entmax/support_graph.h"
#include "model/attention/kept_tokens.h"
#include "model/attention/softmax/softmax_attention.h"

namespace stipple::model {
namespace {

/// Row and head of x [B, H, N, D], on the host.
std::vector<float> download_head(const Stream& stream, ConstRealView x, int64_t row, int64_t head) {
  std::vector<float> values;
  with_real_type(x.precision, [&](auto zero) {
    using T = decltype(zero);
    const View<const T> of_head = x.as<T>().at(row).at(head);
    std::vector<T> stored(static_cast<size_t>(of_head.numel()));
    download(stream, std::span<T>(stored), of_head);
    for (const T& value : stored) values.push_back(to_float(value));
  });
  return values;
}

/// The `count` keys with the largest products with the query, ascending; keys [M, D].
std::vector<int32_t> best_keys(std::span<const float> query, std::span<const float> keys,
                               std::span<const int64_t> candidates, size_t count) {
  std::vector<std::pair<double, int32_t>> scored;
  for (const int64_t j : candidates) {
    const auto key = keys.subspan(static_cast<size_t>(j) * query.size(), query.size());
    scored.emplace_back(std::inner_product(query.begin(), query.end(), key.begin(), 0.0),
                        static_cast<int32_t>(j));
  }
  count = std::min(count, scored.size());
  std::ranges::nth_element(scored, scored.begin() + static_cast<int64_t>(count), std::greater<>());
  std::vector<int32_t> best;
  for (size_t e = 0; e < count; ++e) best.push_back(scored[e].second);
  std::ranges::sort(best);
  return best;
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

/// The support of one head. Of a row with more keys than are kept only their number is known: they
/// are the best ones.
kernels::EdgeList EntmaxAttention::support_of(const Stream& stream, const AttentionInputs& in,
                                              const Saved& saved, int64_t row, int64_t head,
                                              const std::vector<int64_t>& tokens) const {
  const auto room = static_cast<size_t>(saved.support.columns.shape[3]);
  const auto dim = static_cast<size_t>(in.q.shape[3]);
  std::vector<int32_t> sizes(static_cast<size_t>(in.q.shape[2]));
  std::vector<uint32_t> columns(sizes.size() * room);
  download(stream, std::span<int32_t>(sizes), saved.support.size.at(row).at(head));
  download(stream, std::span<uint32_t>(columns), saved.support.columns.at(row).at(head));
  const std::vector<float> q = download_head(stream, in.q, row, head);
  const std::vector<float> k = download_head(stream, in.k, row, head);
  kernels::EdgeList edges;
  edges.row_ptr.push_back(0);
  for (size_t i = 0; i < sizes.size(); ++i) {
    const auto size = static_cast<size_t>(sizes[i]);
    if (size <= room) {
      const auto first = columns.begin() + static_cast<int64_t>(i * room);
      edges.columns.insert(edges.columns.end(), first, first + sizes[i]);
    } else {
      const auto last = entmax_.is_causal()
                            ? std::ranges::upper_bound(tokens, static_cast<int64_t>(i))
                            : tokens.end();
      const std::vector<int32_t> best =
          best_keys(std::span(q).subspan(i * dim, dim), k, std::span(tokens.begin(), last), size);
      edges.columns.insert(edges.columns.end(), best.begin(), best.end());
    }
    edges.row_ptr.push_back(static_cast<int64_t>(edges.columns.size()));
  }
  return edges;
}

void EntmaxAttention::tell_graphs(Context& ctx, const AttentionInputs& in,
                                  const Attention::Saved& base) const {
  const Saved& saved = static_cast<const Saved&>(base);
  tell_rows(ctx, in, [&](int64_t row, const std::vector<int64_t>& tokens) {
    auto graph = std::make_unique<SupportGraph>();
    for (int64_t head = 0; head < in.q.shape[1]; ++head) {
      graph->edges.push_back(kernels::subgraph(support_of(ctx.stream, in, saved, row, head, tokens),
                                               in.k.shape[2], tokens, tokens));
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
