// SPDX-License-Identifier: Apache-2.0
#include "model/attention/entmax/entmax_over_pairs.h"

#include <cmath>

namespace stipple::model {

EntmaxOverPairs::EntmaxOverPairs(const AttentionConfig& config, ParameterStore& store,
                                 FactTable& facts, const AttentionShape& shape)
    : heads_(config.entmax, store, facts, shape.name, shape.num_heads),
      scale_(static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_dim)))),
      pattern_{.is_causal = shape.is_causal},
      dropout_rate_(static_cast<float>(config.dropout)) {}

void EntmaxOverPairs::begin_step(const Stream& stream, const RngKey& rng) const {
  heads_.begin_step(stream, rng);
}

kernels::AttendEntmax EntmaxOverPairs::arguments(Context& ctx, const AttentionInputs& in,
                                                 const kernels::EntmaxHeads& heads,
                                                 RealView out) const {
  kernels::AttendEntmax args;
  args.o = out;
  args.q = in.q;
  args.k = in.k;
  args.v = in.v;
  args.heads = heads;
  args.key_mask = in.mask;
  args.pattern = pattern_;
  args.scale = scale_;
  args.dropout = dropout_of(ctx, in, dropout_rate_, {});
  args.scratch = &ctx.scratch;
  return args;
}

void EntmaxOverPairs::forward(Context& ctx, const AttentionInputs& in,
                              const kernels::EdgeSet& edges, RealView out, Saved& saved) const {
  const Shape& shape = in.q.shape;
  saved.tau = ctx.saved.alloc<float>({shape[0], shape[1], shape[2]});
  saved.support = kernels::alloc_entmax_support(ctx.saved, shape[0], shape[1], shape[2]);
  saved.o2 = ctx.training ? ctx.saved.alloc(ctx.precision(), shape) : RealView{};
  saved.heads = heads_.forward(ctx);
  saved.edges = edges;
  kernels::AttendEntmax args = arguments(ctx, in, saved.heads, out);
  args.o2 = saved.o2;
  args.tau = saved.tau;
  args.support = saved.support;
  args.edges = saved.edges;
  kernels::attend_entmax(ctx.stream, args);
}

void EntmaxOverPairs::backward(Context& ctx, const AttentionInputs& in, ConstRealView dout,
                               const Saved& saved, const AttentionGrads& grads) const {
  const Arena::Scope scope(ctx.scratch);
  const auto shares = [&](bool are_asked) {
    return are_asked ? ctx.scratch.alloc<float>(saved.tau.shape) : View<float>{};
  };
  const View<float> dalpha = shares(heads_.learns_alpha());
  const View<float> dtemperature = shares(heads_.learns_temperature());
  kernels::attend_entmax_backward(ctx.stream, {.dq = grads.dq,
                                               .dk = grads.dk,
                                               .dv = grads.dv,
                                               .dalpha = dalpha,
                                               .dtemperature = dtemperature,
                                               .q = in.q,
                                               .k = in.k,
                                               .v = in.v,
                                               .o2 = saved.o2,
                                               .dout = dout,
                                               .tau = saved.tau,
                                               .support = saved.support,
                                               .heads = saved.heads,
                                               .edges = saved.edges,
                                               .key_mask = in.mask,
                                               .pattern = pattern_,
                                               .scale = scale_,
                                               .dropout = dropout_of(ctx, in, dropout_rate_, {}),
                                               .scratch = &ctx.scratch});
  heads_.backward(ctx, dalpha, dtemperature);
}

EntmaxOverPairs::Rows EntmaxOverPairs::alloc_rows(Arena& arena, ConstRealView q, int64_t room) {
  const Shape& shape = q.shape;
  return {.tau = arena.alloc<float>({shape[0], shape[1], shape[2]}),
          .support = kernels::alloc_entmax_support(arena, shape[0], shape[1], shape[2], room),
          .o = arena.alloc(q.precision, shape)};
}

kernels::EntmaxHeads EntmaxOverPairs::heads(Context& ctx) const { return heads_.forward(ctx); }

void EntmaxOverPairs::over_pairs(Context& ctx, const AttentionInputs& in,
                                 const kernels::EntmaxHeads& heads, const kernels::EdgeSet& edges,
                                 const Rows& rows) const {
  kernels::AttendEntmax args = arguments(ctx, in, heads, rows.o);
  args.edges = edges;
  args.tau = rows.tau;
  args.support = rows.support;
  args.dropout = {};
  kernels::attend_entmax(ctx.stream, args);
}

void EntmaxOverPairs::decode(Context& ctx, const AttentionInputs& in, RealView out) const {
  const Arena::Scope scope(ctx.scratch);
  kernels::AttendEntmax args = arguments(ctx, in, heads_.forward(ctx), out);
  args.tau = ctx.scratch.alloc<float>({1, in.q.shape[1], 1});
  args.pattern = {};
  kernels::attend_entmax(ctx.stream, args);
}

}  // namespace stipple::model
