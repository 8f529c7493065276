// SPDX-License-Identifier: Apache-2.0
#include "model/attention/kept_tokens.h"

#include "core/copy.h"

namespace stipple::model {

void keep_token(const Stream& stream, RealView rows, ConstRealView token, int64_t place) {
  if (stream.is_plan()) return;
  const int64_t heads = rows.shape[1], room = rows.shape[2];
  const size_t row = rows.bytes() / static_cast<size_t>(heads * room);
  for (int64_t head = 0; head < heads; ++head) {
    const size_t at = static_cast<size_t>(head * room + place) * row;
    copy_bytes(stream, static_cast<std::byte*>(rows.data) + at,
               static_cast<const std::byte*>(token.data) + static_cast<size_t>(head) * row, row);
  }
}

KeptTokens::KeptTokens(Arena& arena, const Stream& stream, int64_t heads, int64_t longest,
                       int64_t head_dim)
    : k(arena.alloc(stream.precision(), {1, heads, longest, head_dim})),
      v(arena.alloc(stream.precision(), {1, heads, longest, head_dim})),
      mask(arena.alloc<uint8_t>({1, longest})) {
  // A value that nobody has written is multiplied by the weight 0.
  for (const RealView& all : {k, v}) fill_zero_bytes(stream, all.data, all.bytes());
}

void KeptTokens::add(Context& ctx, const AttentionInputs& in) {
  const int64_t position = ctx.decoding->position;
  if (position == 0) fill_zero(ctx.stream, mask);
  keep_token(ctx.stream, k, in.k, position);
  keep_token(ctx.stream, v, in.v, position);
  if (!ctx.stream.is_plan())
    copy_bytes(ctx.stream, mask.data + position, in.mask.data, sizeof(uint8_t));
}

}  // namespace stipple::model
