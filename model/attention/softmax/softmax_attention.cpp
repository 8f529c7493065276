// SPDX-License-Identifier: Apache-2.0
#include "model/attention/softmax/softmax_attention.h"

#include <cmath>

#include "model/attention/kept_tokens.h"

namespace stipple::model {
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
                                     .pattern = within_groups(pattern_, in),
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
                                  .pattern = within_groups(pattern_, in),
                                  .scale = scale_,
                                  .dropout = dropout_of(ctx, in, dropout_rate_, saved.kept),
                                  .scratch = &ctx.scratch});
}

std::unique_ptr<AttentionCache> SoftmaxAttention::make_cache(Arena& arena, const Stream& stream,
                                                             int64_t longest) const {
  return std::make_unique<KeptTokens>(arena, stream, heads_, longest, head_dim_);
}

void SoftmaxAttention::do_decode(Context& ctx, const AttentionInputs& in, RealView out,
                                 AttentionCache& base) const {
  KeptTokens& cache = static_cast<KeptTokens&>(base);
  cache.add(ctx, in);
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
