// SPDX-License-Identifier: Apache-2.0
#include "model/layers/linear.h"

#include <cmath>

#include "kernels/matmul.h"

namespace stipple::model {
namespace {

template <class Array>
Array as_rows(const Array& x, int64_t width) {
  return x.reshape({x.numel() / width, width});
}

}  // namespace

Linear::Linear(ParameterStore& store, const std::string& name, int64_t in, int64_t out)
    : store_(store), in_(in), out_(out) {
  const Init init = Init::uniform(1.0 / std::sqrt(static_cast<double>(in))).usual();
  weight_ = store.declare(name + ".weight", {out, in}, init);
  bias_ = store.declare(name + ".bias", {out}, init, Decay::kNo);
}

void Linear::forward(Context& ctx, ConstRealView x, RealView y, Saved& saved) const {
  saved.x = x;
  kernels::linear(ctx.stream, {.y = as_rows(y, out_),
                               .x = as_rows(x, in_),
                               .weight = store_.value(weight_),
                               .bias = store_.value(bias_),
                               .scratch = &ctx.scratch});
}

void Linear::backward(Context& ctx, const Saved& saved, ConstRealView dy, RealView dx) const {
  kernels::linear_backward(ctx.stream, {.dx = dx.empty() ? dx : as_rows(dx, in_),
                                        .dweight = store_.grad(weight_),
                                        .dbias = store_.grad(bias_),
                                        .dy = as_rows(dy, out_),
                                        .x = as_rows(saved.x, in_),
                                        .weight = store_.value(weight_),
                                        .scratch = &ctx.scratch});
}

}  // namespace stipple::model
