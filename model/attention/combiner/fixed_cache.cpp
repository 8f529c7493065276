// SPDX-License-Identifier: Apache-2.0
#include "model/attention/combiner/fixed_cache.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "core/copy.h"
#include "kernels/matmul.h"
#include "model/attention/kept_tokens.h"

namespace stipple::model {
namespace {

using kernels::AttendPart;
using kernels::Partition;

/// The rows of the cache: the globals and one region.
Partition one_block(int64_t globals, int64_t rows) {
  return {.overlaps_own = true,
          .length = rows,
          .globals = globals,
          .block = std::max<int64_t>(rows - globals, 1)};
}

}  // namespace

FixedCache::FixedCache(Arena& arena, const Stream& stream, const Partition& cut, int64_t heads,
                       int64_t head_dim)
    : longest_(cut.length) {
  const int64_t rows = cut.globals + std::min(cut.block, cut.cells());
  const int64_t blocks = std::max<int64_t>(cut.num_blocks(), 1);
  for (RealView* tokens : {&k_, &v_, &content_q_, &content_k_})
    *tokens = arena.alloc(stream.precision(), {1, heads, rows, head_dim});
  for (RealView* regions : {&key_, &value_})
    *regions = arena.alloc(stream.precision(), {1, heads, blocks, head_dim});
  given_ = arena.alloc<uint8_t>({1, rows});
  closed_ = arena.alloc<uint8_t>({2, blocks});
  ones_ = arena.alloc<float>({heads, 1});
  if (!stream.is_plan())
    upload(stream, ones_, std::vector<float>(static_cast<size_t>(heads), 1.0f));
  // What nobody has written yet is multiplied by the weight 0.
  for (const RealView& all : {k_, v_, content_q_, content_k_, key_, value_})
    fill_zero_bytes(stream, all.data, all.bytes());
}

void FixedCache::begin_sequence(const Stream& stream) {
  fill_zero(stream, given_);
  fill_zero(stream, closed_);
}

void FixedCache::begin_block(const Stream& stream, int64_t globals) {
  fill_zero(stream, View<uint8_t>{given_.data + globals, {given_.shape[1] - globals}});
}

void FixedCache::keep(const Stream& stream, const AttentionInputs& in, int64_t row) {
  keep_token(stream, k_, in.k, row);
  keep_token(stream, v_, in.v, row);
  keep_token(stream, content_q_, in.content_q, row);
  keep_token(stream, content_k_, in.content_k, row);
  if (!stream.is_plan()) copy_bytes(stream, given_.data + row, in.mask.data, sizeof(uint8_t));
}

/// The globals and the own block.
AttendPart FixedCache::attend(Context& ctx, const AttentionInputs& in, const FixedDecoding& how) {
  const RealView o = ctx.scratch.alloc(ctx.precision(), in.q.shape);
  const View<float> lse = ctx.scratch.alloc<float>({1, in.q.shape[1], 1});
  kernels::attend_dense(ctx.stream, {.o = o,
                                     .lse = lse,
                                     .q = in.q,
                                     .k = k_,
                                     .v = v_,
                                     .key_mask = given_,
                                     .scale = how.scale,
                                     .scratch = &ctx.scratch});
  return {o, lse};
}

/// Blocks before it that stand in a row of closed_.
AttendPart FixedCache::attend_blocks(Context& ctx, const AttentionInputs& in,
                                     const FixedDecoding& how, int64_t row) {
  const RealView o = ctx.scratch.alloc(ctx.precision(), in.q.shape);
  const View<float> lse = ctx.scratch.alloc<float>({1, in.q.shape[1], 1});
  kernels::attend_dense(ctx.stream, {.o = o,
                                     .lse = lse,
                                     .q = in.content_q,
                                     .k = key_,
                                     .v = value_,
                                     .key_mask = closed_.at(row).reshape({1, closed_.shape[1]}),
                                     .scale = how.scale,
                                     .scratch = &ctx.scratch});
  const int64_t tokens = row == 0 ? how.partition.block : how.partition.block_line(0).count;
  add_mass(ctx, lse, how.mass, tokens);
  return {o, lse};
}

/// Adds to every score of regions of so many tokens, and so to the logarithm of their sum.
void FixedCache::add_mass(Context& ctx, View<float> lse, const kernels::RegionMass& mass,
                          int64_t tokens) const {
  if (mass.factor == 0) return;
  const int64_t heads = lse.shape[1];
  kernels::matmul(ctx.stream,
                  {.c = lse.reshape({heads, 1}),
                   .a = mass.head_factor.empty() ? View<const float>(ones_)
                                                 : mass.head_factor.reshape({heads, 1}),
                   .b = View<float>{ones_.data, {1, 1}},
                   .alpha = mass.factor * static_cast<float>(std::log(static_cast<double>(tokens))),
                   .beta = 1.0f,
                   .scratch = &ctx.scratch});
}

void FixedCache::close_block(Context& ctx, const AttentionInputs& in, const FixedDecoding& how,
                             int64_t block) {
  const Arena::Scope scope(ctx.scratch);
  const Shape& shape = k_.shape;
  const Partition cut = one_block(how.partition.globals, shape[2]);
  const kernels::Summaries summary =
      kernels::alloc_summaries(ctx.scratch, ctx.precision(), 1, shape[1], shape[3], cut, how.pool,
                               kernels::RegionKey::kPooled);
  kernels::summarize_regions(ctx.stream, {.out = summary,
                                          .q = how.query_pool.forward(ctx, content_q_),
                                          .k = content_k_,
                                          .v = v_,
                                          .pooled_k = how.key_pool.forward(ctx, content_k_),
                                          .mask = given_,
                                          .partition = cut,
                                          .pool = how.pool,
                                          .scale = how.scale,
                                          .scratch = &ctx.scratch});
  keep_token(ctx.stream, key_, summary.key, block);
  keep_token(ctx.stream, value_, summary.value, block);
  const int64_t is_short = block == 0 && how.partition.shift > 0 ? 1 : 0;
  if (!ctx.stream.is_plan())
    copy_bytes(ctx.stream, closed_.at(is_short).data + block, in.mask.data, sizeof(uint8_t));
}

void FixedCache::decode(Context& ctx, const AttentionInputs& in, RealView out,
                        const FixedDecoding& how) {
  const Arena::Scope scope(ctx.scratch);
  const Partition& cut = how.partition;
  const int64_t position = ctx.decoding->position, cell = position - cut.globals;
  const int64_t block = cell < 0 ? 0 : (cell + cut.shift) / cut.block;
  const kernels::Line own = cut.block_line(block);
  if (position == 0) begin_sequence(ctx.stream);
  if (position == own.first) begin_block(ctx.stream, cut.globals);
  keep(ctx.stream, in, cell < 0 ? position : cut.globals + position - own.first);

  std::array<AttendPart, 3> parts;
  size_t num_parts = 0;
  parts[num_parts++] = attend(ctx, in, how);
  if (cut.num_regions() > 0) parts[num_parts++] = attend_blocks(ctx, in, how, 0);
  if (cut.num_regions() > 0 && cut.shift > 0) parts[num_parts++] = attend_blocks(ctx, in, how, 1);
  kernels::merge_parts(ctx.stream, {.o = out,
                                    .lse = ctx.scratch.alloc<float>({1, out.shape[1], 1}),
                                    .parts = std::span<const AttendPart>(parts).first(num_parts)});
  const bool is_full = cell >= 0 && position + 1 == own.first + own.count;
  const bool is_last = block + 1 >= cut.num_blocks();
  if ((is_full && !is_last) || (ctx.stream.is_plan() && cut.num_regions() > 0))
    close_block(ctx, in, how, block);
}

}  // namespace stipple::model
