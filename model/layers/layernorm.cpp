// SPDX-License-Identifier: Apache-2.0
#include "model/layers/layernorm.h"

#include "kernels/layernorm.h"

namespace stipple::model {

LayerNorm::LayerNorm(ParameterStore& store, const std::string& name, int64_t width, double eps)
    : store_(store), width_(width), eps_(static_cast<float>(eps)) {
  weight_ = store.declare(name + ".weight", {width}, Init::constant(1), Decay::kNo);
  bias_ = store.declare(name + ".bias", {width}, Init::constant(0), Decay::kNo);
}

void LayerNorm::forward(Context& ctx, View<const float> x, RealView y, Saved& saved) const {
  const int64_t rows = x.numel() / width_;
  saved = {.x = x, .mean = ctx.saved.alloc<float>({rows}), .rstd = ctx.saved.alloc<float>({rows})};
  kernels::layernorm(ctx.stream, {.y = y.reshape({rows, width_}),
                                  .mean = saved.mean,
                                  .rstd = saved.rstd,
                                  .x = x.reshape({rows, width_}),
                                  .weight = store_.value(weight_),
                                  .bias = store_.value(bias_),
                                  .eps = eps_});
}

void LayerNorm::backward(Context& ctx, const Saved& saved, ConstRealView dy, RealView dx) const {
  const Shape rows{saved.mean.numel(), width_};
  kernels::layernorm_backward(ctx.stream, {.dx = dx.reshape(rows),
                                           .dweight = store_.grad(weight_),
                                           .dbias = store_.grad(bias_),
                                           .dy = dy.reshape(rows),
                                           .x = saved.x.reshape(rows),
                                           .weight = store_.value(weight_),
                                           .mean = saved.mean,
                                           .rstd = saved.rstd,
                                           .scratch = &ctx.scratch});
}

}  // namespace stipple::model
