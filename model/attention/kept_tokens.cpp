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

}  // namespace stipple::model
