// SPDX-License-Identifier: Apache-2.0
#include "model/attention/attention.h"

#include "core/error.h"

namespace stipple::model {
namespace {

void check(const Attention& attention, const AttentionInputs& in, const Shape& out) {
  STIPPLE_CHECK_AS(ShapeError, in.q.shape.rank() == 4, "attention: q must be [B, H, N, D], got ",
                   in.q.shape.str());
  STIPPLE_CHECK_SHAPE("attention", in.k, (in.q.shape));
  STIPPLE_CHECK_SHAPE("attention", in.v, (in.q.shape));
  if (attention.reads_content()) {
    STIPPLE_CHECK_SHAPE("attention", in.content_q, (in.q.shape));
    STIPPLE_CHECK_SHAPE("attention", in.content_k, (in.k.shape));
  }
  if (attention.reads_input()) {
    STIPPLE_CHECK_SHAPE("attention", in.x,
                        ({in.q.shape[0], in.q.shape[2], in.q.shape[1] * in.q.shape[3]}));
  }
  STIPPLE_CHECK_SHAPE("attention", in.mask, ({in.q.shape[0], in.q.shape[2]}));
  STIPPLE_CHECK_SHAPE("attention", in.samples, ({in.q.shape[0]}));
  if (!in.groups.empty()) {
    STIPPLE_CHECK_SHAPE("attention", in.groups, ({in.q.shape[0] * in.q.shape[1], in.q.shape[2]}));
  }
  STIPPLE_CHECK_AS(ShapeError, out == in.q.shape, "attention: out has shape ", out.str(),
                   ", expected ", in.q.shape.str());
}

}  // namespace

void Attention::forward(Context& ctx, const AttentionInputs& in, RealView out, Saved& saved) const {
  check(*this, in, out.shape);
  if (ctx.decoding == nullptr) return do_forward(ctx, in, out, saved);
  do_decode(ctx, in, out, *ctx.decoding->caches.at(static_cast<size_t>(ctx.layer)));
}

void Attention::do_decode(Context&, const AttentionInputs&, RealView, AttentionCache&) const {
  throw Error("attention: has no cache to decode with");
}

void Attention::backward(Context& ctx, const AttentionInputs& in, ConstRealView out,
                         ConstRealView dout, const Saved& saved,
                         const AttentionGrads& grads) const {
  check(*this, in, out.shape);
  STIPPLE_CHECK_SHAPE("attention", dout, (out.shape));
  STIPPLE_CHECK_SHAPE("attention", grads.dq, (in.q.shape));
  STIPPLE_CHECK_SHAPE("attention", grads.dk, (in.k.shape));
  STIPPLE_CHECK_SHAPE("attention", grads.dv, (in.v.shape));
  if (reads_content()) {
    STIPPLE_CHECK_SHAPE("attention", grads.dcontent_q, (in.q.shape));
    STIPPLE_CHECK_SHAPE("attention", grads.dcontent_k, (in.k.shape));
  }
  if (reads_input()) STIPPLE_CHECK_SHAPE("attention", grads.dx, (in.x.shape));
  do_backward(ctx, in, out, dout, saved, grads);
}

kernels::Pattern within_groups(kernels::Pattern pattern, const AttentionInputs& in) {
  if (in.groups.empty()) return pattern;
  STIPPLE_CHECK(pattern.kind == kernels::PatternKind::kAll, "attention: groups within a pattern");
  pattern.kind = kernels::PatternKind::kOwnGroup;
  pattern.query_group = pattern.key_group = in.groups;
  return pattern;
}

bool drops(const Context& ctx, float rate) { return ctx.training && rate > 0.0f; }

kernels::AttentionDropout dropout_of(const Context& ctx, const AttentionInputs& in, float rate,
                                     View<uint32_t> kept) {
  return {.rate = drops(ctx, rate) ? rate : 0.0f,
          .rng = ctx.rng,
          .layer = ctx.layer,
          .samples = in.samples,
          .kept = kept};
}

}  // namespace stipple::model
