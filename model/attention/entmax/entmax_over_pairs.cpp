// SPDX-License-Identifier: Apache-2.0
#include "model/attention/entmax/entmax_over_pairs.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <type_traits>

#include "core/copy.h"

namespace stipple::model {
namespace {

/// Problems that are computed at once: heads of rows. All heads, unless it is one row.
struct Part {
  int64_t row, rows, head, heads;
  bool over_edges;
};

/// Calls run(part) for parts that make up all problems [B, H]. On meta for the largest that may be,
/// over edges and over all pairs.
template <class Run>
void for_each_part(const Stream& stream, const Shape& problems,
                   const std::vector<uint8_t>& over_edges, const Run& run) {
  const int64_t rows = problems[0], heads = problems[1];
  if (stream.is_plan() && !over_edges.empty()) {
    for (const bool is_over_edges : {false, true}) run(Part{0, rows, 0, heads, is_over_edges});
    return;
  }
  const auto is_over = [&](int64_t head) { return over_edges[static_cast<size_t>(head)] != 0; };
  const auto end_of_run = [&](int64_t first) {
    int64_t head = first + 1;
    while (head < heads && is_over(head) == is_over(first)) ++head;
    return head;
  };
  if (over_edges.empty() || end_of_run(0) == heads)
    return run(Part{0, rows, 0, heads, over_edges.empty() || is_over(0)});
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t head = 0; head < heads; head = end_of_run(head))
      run(Part{row, 1, head, end_of_run(head) - head, is_over(head)});
}

Shape part_of(const Shape& shape, const Part& part) {
  return shape.rank() == 3 ? Shape({part.rows, part.heads, shape[2]})
                           : Shape({part.rows, part.heads, shape[2], shape[3]});
}
/// Elements of x [B, H, ...] before the part.
int64_t begin_of(const Shape& shape, const Part& part) {
  return (part.row * shape[1] + part.head) * (shape.numel() / (shape[0] * shape[1]));
}
template <class T>
View<T> part_of(View<T> x, const Part& part) {
  if (x.empty()) return x;
  return {x.data == nullptr ? nullptr : x.data + begin_of(x.shape, part), part_of(x.shape, part)};
}
template <class Memory>
BasicRealView<Memory> part_of(BasicRealView<Memory> x, const Part& part) {
  if (x.empty()) return x;
  using Byte = std::conditional_t<std::is_const_v<Memory>, const std::byte, std::byte>;
  const size_t skipped = static_cast<size_t>(begin_of(x.shape, part)) * bytes_of(x.precision);
  return {x.data == nullptr ? nullptr : static_cast<Byte*>(x.data) + skipped,
          part_of(x.shape, part), x.precision};
}
kernels::EntmaxSupport part_of(const kernels::EntmaxSupport& support, const Part& part) {
  return {part_of(support.size, part), part_of(support.columns, part)};
}
/// [H]
View<const float> heads_of(View<const float> x, const Part& part) {
  return x.empty() ? x : View<const float>{x.data + part.head, {part.heads}};
}
kernels::EntmaxHeads heads_of(const kernels::EntmaxHeads& heads, const Part& part) {
  return {.alpha = heads_of(heads.alpha, part), .temperature = heads_of(heads.temperature, part)};
}
/// [B, ...]
template <class T>
View<T> rows_of(View<T> x, const Part& part) {
  if (x.empty()) return x;
  const int64_t each = x.numel() / x.shape[0];
  return {x.data == nullptr ? nullptr : x.data + part.row * each,
          x.shape.rank() == 1 ? Shape({part.rows}) : Shape({part.rows, each})};
}

/// [1, N] of [P, N]
template <class T>
View<T> problem_of(View<T> x, int64_t number) {
  if (x.empty()) return x;
  return {x.data == nullptr ? nullptr : x.data + number * x.shape[1], {1, x.shape[1]}};
}

/// Problems first, first + 1, ... of a graph, in its memory.
kernels::EdgeSet problems_of(kernels::EdgeSet edges, int64_t first, int64_t count) {
  const auto narrow = [&](auto& array) {
    if (array.empty()) return;
    const bool is_flat = array.shape.rank() == 1;
    const int64_t each = is_flat ? 1 : array.shape[1];
    if (array.data != nullptr) array.data += first * each;
    array.shape = is_flat ? Shape({count}) : Shape({count, each});
  };
  narrow(edges.form);
  for (auto* pointers : {&edges.row_ptr, &edges.column_ptr}) narrow(*pointers);
  for (auto* words : {&edges.storage, &edges.transposed}) narrow(*words);
  kernels::EdgeGroups& groups = edges.groups;
  for (auto* of_groups : {&groups.queries, &groups.query_ptr, &groups.keys, &groups.key_ptr})
    narrow(*of_groups);
  return edges;
}

/// What forward and backward have in common.
template <class Arguments>
Arguments part_of_both(Arguments args, const Part& part) {
  const int64_t heads = args.q.shape[1];
  args.edges = part.over_edges && !args.edges.form.empty()
                   ? problems_of(args.edges, part.row * heads + part.head, part.rows * part.heads)
                   : kernels::EdgeSet{};
  for (ConstRealView* x : {&args.q, &args.k, &args.v}) *x = part_of(*x, part);
  args.o2 = part_of(args.o2, part);
  args.tau = part_of(args.tau, part);
  args.support = part_of(args.support, part);
  args.heads = heads_of(args.heads, part);
  args.key_mask = rows_of(args.key_mask, part);
  args.dropout.samples = rows_of(args.dropout.samples, part);
  args.dropout.first_head = static_cast<int>(part.head);
  return args;
}
kernels::AttendEntmax part_of(const kernels::AttendEntmax& all, const Part& part) {
  kernels::AttendEntmax args = part_of_both(all, part);
  args.o = part_of(args.o, part);
  return args;
}
kernels::AttendEntmaxBackward part_of(const kernels::AttendEntmaxBackward& all, const Part& part) {
  kernels::AttendEntmaxBackward args = part_of_both(all, part);
  for (RealView* dx : {&args.dq, &args.dk, &args.dv}) *dx = part_of(*dx, part);
  for (View<float>* share : {&args.dalpha, &args.dtemperature}) *share = part_of(*share, part);
  args.dout = part_of(args.dout, part);
  return args;
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
  for_each_part(ctx.stream, shape, saved.over_edges,
                [&](const Part& part) { kernels::attend_entmax(ctx.stream, part_of(args, part)); });
}

void EntmaxOverPairs::backward(Context& ctx, const AttentionInputs& in, ConstRealView dout,
                               const Saved& saved, const AttentionGrads& grads) const {
  const Arena::Scope scope(ctx.scratch);
  const auto shares = [&](bool are_asked) {
    return are_asked ? ctx.scratch.alloc<float>(saved.tau.shape) : View<float>{};
  };
  const View<float> dalpha = shares(heads_.learns_alpha());
  const View<float> dtemperature = shares(heads_.learns_temperature());
  const kernels::AttendEntmaxBackward args{.dq = grads.dq,
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
                                           .scratch = &ctx.scratch};
  for_each_part(ctx.stream, in.q.shape, saved.over_edges, [&](const Part& part) {
    kernels::attend_entmax_backward(ctx.stream, part_of(args, part));
  });
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
  const Part one{row, 1, head, 1, /*over_edges=*/false};
  int64_t room = kernels::kEntmaxRoom;
  if (!kept.empty()) {
    const kernels::EntmaxSupport own = part_of(kept, one);
    room = std::ranges::max(download_sizes(ctx.stream, own));
    if (room <= own.columns.shape[3]) return download_support(ctx.stream, own);
  }
  AttentionInputs problem = in;
  problem.q = part_of(in.q, one);
  problem.k = part_of(in.k, one);
  problem.v = part_of(in.v, one);
  problem.mask = rows_of(in.mask, one);
  problem.groups = problem_of(in.groups, row * in.q.shape[1] + head);
  for (;;) {
    const auto with_room = [&](Arena& arena) { return alloc_rows(arena, problem.q, room); };
    Arena plan("graph");
    with_room(plan);
    Arena memory("graph", ctx.stream.device(), plan.peak());
    const Rows rows = with_room(memory);
    over_all_pairs(ctx, problem, heads_of(heads, one), rows);
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
