// SPDX-License-Identifier: Apache-2.0
#include "model/attention/combiner/row_key.h"

#include "core/copy.h"
#include "kernels/activation.h"
#include "kernels/heads.h"

namespace stipple::model {
namespace {

/// Rows [first, first + count) of problem p of an array [B, H, *, D], flat.
template <class Array>
Array rows_of(const Array& x, int64_t p, int64_t first, int64_t count) {
  using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(x.data)>>,
                                  const std::byte, std::byte>;
  const int64_t dim = x.shape[3], at = (p * x.shape[2] + first) * dim;
  Byte* data = static_cast<Byte*>(x.data);
  if (data != nullptr) data += static_cast<size_t>(at) * bytes_of(x.precision);
  return {data, {count * dim}, x.precision};
}

/// Calls body(rows of regions, rows of tokens) for every problem: region r is asked for by token
/// globals + r, as long as there is one.
template <class Regions, class Tokens, class Body>
void for_own_rows(const kernels::Partition& cut, const Regions& regions, const Tokens& tokens,
                  const Body& body) {
  if (cut.num_regions() == 0) return;
  for (int64_t p = 0; p < regions.shape[0] * regions.shape[1]; ++p) {
    body(rows_of(regions, p, 0, cut.cells()), rows_of(tokens, p, cut.globals, cut.cells()));
  }
}

}  // namespace

RowKey::RowKey(ParameterStore& store, const std::string& name, int64_t width)
    : in_(store, name + ".in", width, width),
      norm_(store, name + ".norm", width),
      out_(store, name + ".out", width, width) {}

void RowKey::forward(Context& ctx, ConstRealView x, ConstRealView found,
                     const kernels::Partition& cut, const kernels::Summaries& summaries,
                     RealView keys, Saved& saved) const {
  const Shape tokens = {found.shape[0], found.shape[1], cut.length, found.shape[3]};
  const RealView merged = ctx.saved.alloc(ctx.precision(), x.shape);
  const View<float> sum = ctx.saved.alloc<float>(x.shape);
  const RealView normed = ctx.saved.alloc(ctx.precision(), x.shape);
  const Arena::Scope scope(ctx.scratch);
  const RealView of_tokens = ctx.scratch.alloc(ctx.precision(), tokens);
  fill_zero_bytes(ctx.stream, of_tokens.data, of_tokens.bytes());
  for_own_rows(cut, found, of_tokens, [&](ConstRealView region, RealView token) {
    copy_bytes(ctx.stream, token.data, region.data, region.bytes());
  });
  kernels::merge_heads(ctx.stream, {.y = merged, .x = of_tokens});
  in_.forward(ctx, merged, sum, saved.in);
  kernels::add(ctx.stream, {.y = sum, .a = sum, .b = x});
  norm_.forward(ctx, sum, normed, saved.norm);
  const RealView projected = ctx.scratch.alloc(ctx.precision(), x.shape);
  out_.forward(ctx, normed, projected, saved.out);
  kernels::split_heads(ctx.stream, {.y = of_tokens, .x = projected});
  kernels::take_keys(ctx.stream, {.key = keys,
                                  .token_key = of_tokens,
                                  .from = summaries.query_from,
                                  .region_tokens = summaries.tokens,
                                  .scratch = &ctx.scratch});
}

void RowKey::backward(Context& ctx, const Saved& saved, ConstRealView dkeys,
                      const kernels::Partition& cut, const kernels::Summaries& summaries,
                      RealView dfound, RealView dx) const {
  const Arena::Scope scope(ctx.scratch);
  const Shape& width = saved.in.x.shape;
  const RealView of_tokens = ctx.scratch.alloc(
      ctx.precision(), {dkeys.shape[0], dkeys.shape[1], cut.length, dkeys.shape[3]});
  const RealView merged = ctx.scratch.alloc(ctx.precision(), width);
  const RealView dsum = ctx.scratch.alloc(ctx.precision(), width);
  fill_zero_bytes(ctx.stream, of_tokens.data, of_tokens.bytes());
  kernels::take_keys_backward(ctx.stream, {.dtoken_key = of_tokens,
                                           .dkey = dkeys,
                                           .from = summaries.query_from,
                                           .region_tokens = summaries.tokens,
                                           .scratch = &ctx.scratch});
  kernels::merge_heads(ctx.stream, {.y = merged, .x = of_tokens});
  out_.backward(ctx, saved.out, merged, dsum);
  norm_.backward(ctx, saved.norm, dsum, dsum);
  kernels::add(ctx.stream, {.y = dx, .a = dx, .b = dsum});
  in_.backward(ctx, saved.in, dsum, merged);
  kernels::split_heads(ctx.stream, {.y = of_tokens, .x = merged});
  for_own_rows(cut, dfound, of_tokens, [&](RealView region, ConstRealView token) {
    kernels::add(ctx.stream, {.y = region, .a = region, .b = token});
  });
}

}  // namespace stipple::model
