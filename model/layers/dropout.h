// SPDX-License-Identifier: Apache-2.0
// Where activations are dropped, and the one way to do it. Nothing is saved: backward draws the
// same bits again.
#pragma once

#include "kernels/dropout.h"
#include "model/context.h"

namespace stipple::model {

/// The places of a layer; their numbers go into the random counter. The embedding is in layer 0.
enum class DropoutSite : uint8_t {
  kEmbedding = 0,
  kAttentionOut = 1,
  kFeedForwardHidden = 2,
  kFeedForwardOut = 3,
  kHead = 4,  ///< in layer 0, too
};

struct Dropout {
  float rate = 0.0f;
  DropoutSite site = DropoutSite::kEmbedding;

  /// x [B, N, C] in place; nothing outside training.
  void apply(Context& ctx, View<const uint32_t> samples, RealView x) const {
    if (ctx.training && rate > 0.0f) run(ctx, samples, x, x);
  }

  /// The gradient before dropout: dy itself outside training, else scratch memory of its size,
  /// stored as activations are.
  ConstRealView gradient(Context& ctx, View<const uint32_t> samples, ConstRealView dy) const {
    if (!ctx.training || rate == 0.0f) return dy;
    const RealView dx = ctx.scratch.alloc(ctx.precision(), dy.shape);
    run(ctx, samples, dy, dx);
    return dx;
  }

 private:
  void run(Context& ctx, View<const uint32_t> samples, ConstRealView x, RealView y) const {
    kernels::dropout(ctx.stream, {.y = y,
                                  .x = x,
                                  .samples = samples,
                                  .rate = rate,
                                  .rng = ctx.rng,
                                  .layer = ctx.layer,
                                  .site = static_cast<int>(site)});
  }
};

}  // namespace stipple::model
