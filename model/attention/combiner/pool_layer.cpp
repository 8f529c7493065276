// SPDX-License-Identifier: Apache-2.0
#include "model/attention/combiner/pool_layer.h"

#include <cmath>

#include "kernels/activation.h"
#include "kernels/matmul.h"

namespace stipple::model {
namespace {

constexpr kernels::ActivationKind kRectifier = kernels::ActivationKind::kRelu;

template <class Array>
Array as_channels(const Array& x) {
  return x.reshape({x.shape[0] * x.shape[1] * x.shape[2], x.shape[3]});
}

}  // namespace

PoolLayer::PoolLayer(ParameterStore& store, const std::string& name, CombinerPool pool,
                     int64_t head_dim)
    : store_(store),
      rectifies_(pool >= CombinerPool::kReluMax),
      maps_(pool >= CombinerPool::kDeepsetMax) {
  const Init init = Init::uniform(1.0 / std::sqrt(static_cast<double>(head_dim)));
  if (maps_) weight_ = store.declare(name + ".weight", {head_dim, head_dim}, init);
}

ConstRealView PoolLayer::forward(Context& ctx, ConstRealView x) const {
  if (is_identity()) return x;
  const RealView y = ctx.scratch.alloc(ctx.precision(), x.shape);
  if (maps_) {
    kernels::matmul(ctx.stream, {.c = as_channels(y),
                                 .a = as_channels(x),
                                 .b = store_.value(weight_),
                                 .transpose_b = true,
                                 .scratch = &ctx.scratch});
  }
  kernels::activation(ctx.stream, {.y = y, .x = maps_ ? ConstRealView(y) : x, .kind = kRectifier});
  return y;
}

void PoolLayer::backward(Context& ctx, ConstRealView x, RealView dy, RealView dx) const {
  const Arena::Scope scope(ctx.scratch);
  kernels::activation_backward(ctx.stream,
                               {.dx = dy, .dy = dy, .saved = forward(ctx, x), .kind = kRectifier});
  RealView branch = dy;
  if (maps_) {
    branch = ctx.scratch.alloc(ctx.precision(), x.shape);
    kernels::matmul(ctx.stream, {.c = store_.grad(weight_),
                                 .a = as_channels(dy),
                                 .b = as_channels(x),
                                 .transpose_a = true,
                                 .beta = 1.0f,
                                 .scratch = &ctx.scratch});
    kernels::matmul(ctx.stream, {.c = as_channels(branch),
                                 .a = as_channels(dy),
                                 .b = store_.value(weight_),
                                 .scratch = &ctx.scratch});
  }
  kernels::add(ctx.stream, {.y = dx, .a = dx, .b = branch});
}

}  // namespace stipple::model
