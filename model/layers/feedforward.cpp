// SPDX-License-Identifier: Apache-2.0
#include "model/layers/feedforward.h"

#include "kernels/activation.h"

namespace stipple::model {

FeedForward::FeedForward(ParameterStore& store, const std::string& name, int64_t width,
                         int64_t hidden, double dropout)
    : hidden_(hidden),
      in_(store, name + ".in", width, hidden),
      out_(store, name + ".out", hidden, width),
      hidden_dropout_{static_cast<float>(dropout), DropoutSite::kFeedForwardHidden},
      out_dropout_{static_cast<float>(dropout), DropoutSite::kFeedForwardOut} {}

void FeedForward::forward(Context& ctx, ConstRealView x, View<const uint32_t> samples, RealView y,
                          Saved& saved) const {
  const Shape hidden{x.shape[0], x.shape[1], hidden_};
  saved.samples = samples;
  saved.before_gelu = ctx.saved.alloc(ctx.precision(), hidden);
  const RealView activated = ctx.saved.alloc(ctx.precision(), hidden);
  in_.forward(ctx, x, saved.before_gelu, saved.in);
  kernels::activation(
      ctx.stream, {.y = activated, .x = saved.before_gelu, .kind = kernels::ActivationKind::kGelu});
  hidden_dropout_.apply(ctx, samples, activated);
  out_.forward(ctx, activated, y, saved.out);
  out_dropout_.apply(ctx, samples, y);
}

void FeedForward::backward(Context& ctx, const Saved& saved, ConstRealView dy, RealView dx) const {
  Arena::Scope scope(ctx.scratch);
  const RealView dhidden = ctx.scratch.alloc(ctx.precision(), saved.before_gelu.shape);
  {
    Arena::Scope inner(ctx.scratch);
    const ConstRealView dout = out_dropout_.gradient(ctx, saved.samples, dy);
    out_.backward(ctx, saved.out, dout, dhidden);
  }
  hidden_dropout_.apply(ctx, saved.samples, dhidden);
  kernels::activation_backward(ctx.stream, {.dx = dhidden,
                                            .dy = dhidden,
                                            .saved = saved.before_gelu,
                                            .kind = kernels::ActivationKind::kGelu});
  in_.backward(ctx, saved.in, dhidden, dx);
}

}  // namespace stipple::model
