// SPDX-License-Identifier: Apache-2.0
#include "model/attention/softmax/softmax_attention.h"

#include <cmath>

#include "core/copy.h"
#include "model/attention/kept_tokens.h"

namespace stipple::model {
namespace {

struct SoftmaxCache final : AttentionCache {
  RealView k, v;       // [1, H, longest, D]
  View<uint8_t> mask;  // [1, longest]  tokens that were given
};

}  // namespace

SoftmaxAttention::SoftmaxAttention(const AttentionConfig& config, ParameterStore&, FactTable&,
                                   const AttentionShape& shape)
    : heads_(shape.num_heads),
      head_dim_(shape.head_dim),
      scale_(static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_dim)))),
      pattern_{.is_causal = shape.is_causal},
      dropout_rate_(static_cast<float>(config.dropout)) {}

std::unique_ptr<Attention::Saved> SoftmaxAttention::make_saved() const {
  return std::make_unique<Saved>();
}

void SoftmaxAttention::do_forward(Context& ctx, const AttentionInputs& in, RealView out,
                                  Attention::Saved& base) const {
  Saved& saved = static_cast<Saved&>(base);
  saved.lse = ctx.saved.alloc<float>({in.q.shape[0], in.q.shape[1], in.q.shape[2]});
  saved.kept = {};
  if (drops(ctx, dropout_rate_) && in.k.shape[2] <= kMostKeptKeys) {
    saved.kept =
        kernels::alloc_kept(ctx.saved, in.q.shape[0] * in.q.shape[1], in.q.shape[2], in.k.shape[2]);
  }
  kernels::attend_dense(ctx.stream, {.o = out,
                                     .lse = saved.lse,
                                     .q = in.q,
                                     .k = in.k,
                                     .v = in.v,
                                     .key_mask = in.mask,
                                     .pattern = pattern_,
                                     .scale = scale_,
                                     .dropout = dropout_of(ctx, in, dropout_rate_, saved.kept),
                                     .scratch = &ctx.scratch});
}

void SoftmaxAttention::do_backward(Context& ctx, const AttentionInputs& in, ConstRealView out,
                                   ConstRealView dout, const Attention::Saved& base,
                                   const AttentionGrads& grads) const {
  const Saved& saved = static_cast<const Saved&>(base);
  kernels::attend_dense_backward(ctx.stream,
                                 {.dq = grads.dq,
                                  .dk = grads.dk,
                                  .dv = grads.dv,
                                  .q = in.q,
                                  .k = in.k,
                                  .v = in.v,
                                  .o = out,
                                  .dout = dout,
                                  .lse = saved.lse,
                                  .key_mask = in.mask,
                                  .pattern = pattern_,
                                  .scale = scale_,
                                  .dropout = dropout_of(ctx, in, dropout_rate_, saved.kept),
                                  .scratch = &ctx.scratch});
}

std::unique_ptr<AttentionCache> SoftmaxAttention::make_cache(Arena& arena, const Stream& stream,
                                                             int64_t longest) const {
  auto cache = std::make_unique<SoftmaxCache>();
  const Shape shape{1, heads_, longest, head_dim_};
  cache->k = arena.alloc(stream.precision(), shape);
  cache->v = arena.alloc(stream.precision(), shape);
  cache->mask = arena.alloc<uint8_t>({1, longest});
  // A value that nobody has written is multiplied by the weight 0.
  for (const RealView& all : {cache->k, cache->v}) fill_zero_bytes(stream, all.data, all.bytes());
  return cache;
}

void SoftmaxAttention::do_decode(Context& ctx, const AttentionInputs& in, RealView out,
                                 AttentionCache& base) const {
  SoftmaxCache& cache = static_cast<SoftmaxCache&>(base);
  const int64_t position = ctx.decoding->position;
  if (position == 0) fill_zero(ctx.stream, cache.mask);
  if (!ctx.stream.is_plan()) {
    keep_token(ctx.stream, cache.k, in.k, position);
    keep_token(ctx.stream, cache.v, in.v, position);
    copy_bytes(ctx.stream, cache.mask.data + position, in.mask.data, sizeof(uint8_t));
  }
  const Arena::Scope scope(ctx.scratch);
  kernels::attend_dense(ctx.stream, {.o = out,
                                     .lse = ctx.scratch.alloc<float>({1, heads_, 1}),
                                     .q = in.q,
                                     .k = cache.k,
                                     .v = cache.v,
                                     .key_mask = cache.mask,
                                     .scale = scale_,
                                     .scratch = &ctx.scratch});
}

}  // namespace stipple::model
