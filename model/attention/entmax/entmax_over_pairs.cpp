// SPDX-License-Identifier: Apache-2.0
#include "model/attention/entmax/entmax_over_pairs.h"

#include <algorithm>
#include <cmath>

#include "core/copy.h"

namespace stipple::model {
namespace {

/// Row and head of x [B, H, ...], as [1, 1, ...].
template <class T>
View<T> problem_of(View<T> x, int64_t row, int64_t head) {
  const View<T> own = x.at(row).at(head);
  return {own.data,
          x.shape.rank() == 3 ? Shape({1, 1, x.shape[2]}) : Shape({1, 1, x.shape[2], x.shape[3]})};
}
ConstRealView problem_of(ConstRealView x, int64_t row, int64_t head) {
  return with_real_type(x.precision, [&](auto zero) -> ConstRealView {
    return problem_of(x.as<decltype(zero)>(), row, head);
  });
}

View<const float> one_head(View<const float> x, int64_t head) {
  return x.empty() ? x : View<const float>{x.data + head, {1}};
}

std::vector<int32_t> download_sizes(const Stream& stream, const kernels::EntmaxSupport& support) {
  std::vector<int32_t> sizes(static_cast<size_t>(support.size.numel()));
  download(stream, std::span<int32_t>(sizes), support.size);
  return sizes;
}

/// Of one problem whose rows all had room.
kernels::EdgeList download_support(const Stream& stream, const kernels::EntmaxSupport& support) {
  const std::vector<int32_t> sizes = download_sizes(stream, support);
  std::vector<uint32_t> columns(static_cast<size_t>(support.columns.numel()));
  download(stream, std::span<uint32_t>(columns), support.columns);
  kernels::EdgeList edges;
  edges.row_ptr.push_back(0);
  auto first = columns.begin();
  for (const int32_t size : sizes) {
    edges.columns.insert(edges.columns.end(), first, first + size);
    edges.row_ptr.push_back(edges.num_edges());
    first += support.columns.shape[3];
  }
  return edges;
}

}  // namespace

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
  args.pattern = within_groups(pattern_, in);
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
                                               .pattern = within_groups(pattern_, in),
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

// --- supports ------------------------------------------------------------------------------------

kernels::EdgeList EntmaxOverPairs::support_of(Context& ctx, const AttentionInputs& in,
                                              const kernels::EntmaxHeads& heads,
                                              const kernels::EntmaxSupport& kept, int64_t row,
                                              int64_t head) const {
  int64_t room = kernels::kEntmaxRoom;
  if (!kept.empty()) {
    const kernels::EntmaxSupport own = {problem_of(kept.size, row, head),
                                        problem_of(kept.columns, row, head)};
    room = std::ranges::max(download_sizes(ctx.stream, own));
    if (room <= own.columns.shape[3]) return download_support(ctx.stream, own);
  }
  AttentionInputs problem = in;
  problem.q = problem_of(in.q, row, head);
  problem.k = problem_of(in.k, row, head);
  problem.v = problem_of(in.v, row, head);
  problem.mask = in.mask.at(row).reshape({1, in.mask.shape[1]});
  for (;;) {
    const auto with_room = [&](Arena& arena) { return alloc_rows(arena, problem.q, room); };
    Arena plan("graph");
    with_room(plan);
    Arena memory("graph", ctx.stream.device(), plan.peak());
    const Rows rows = with_room(memory);
    over_all_pairs(
        ctx, problem,
        {.alpha = one_head(heads.alpha, head), .temperature = one_head(heads.temperature, head)},
        rows);
    const int64_t longest = std::ranges::max(download_sizes(ctx.stream, rows.support));
    if (longest <= room) return download_support(ctx.stream, rows.support);
    room = longest;
  }
}

std::vector<kernels::EdgeList> EntmaxOverPairs::supports(Context& ctx, const AttentionInputs& in,
                                                         const kernels::EntmaxHeads& heads,
                                                         const kernels::EntmaxSupport& kept,
                                                         int64_t row,
                                                         const std::vector<int64_t>& tokens) const {
  std::vector<kernels::EdgeList> all;
  for (int64_t head = 0; head < in.q.shape[1]; ++head)
    all.push_back(kernels::subgraph(support_of(ctx, in, heads, kept, row, head), in.k.shape[2],
                                    tokens, tokens));
  return all;
}

void EntmaxOverPairs::decode(Context& ctx, const AttentionInputs& in, RealView out) const {
  const Arena::Scope scope(ctx.scratch);
  kernels::AttendEntmax args = arguments(ctx, in, heads_.forward(ctx), out);
  args.tau = ctx.scratch.alloc<float>({1, in.q.shape[1], 1});
  args.pattern = {};
  kernels::attend_entmax(ctx.stream, args);
}

}  // namespace stipple::model
