// SPDX-License-Identifier: Apache-2.0
#include "core/arena.h"

#include <algorithm>

#include "core/error.h"

namespace stipple {

size_t Arena::round_up(size_t bytes) {
  return (bytes + Buffer::kAlignment - 1) / Buffer::kAlignment * Buffer::kAlignment;
}

void* Arena::take(size_t bytes) {
  const size_t rounded = round_up(bytes);
  const bool planning = device_.type == DeviceType::kMeta;
  STIPPLE_CHECK_AS(ArenaError, planning || rounded <= buffer_.bytes() - used_, "arena '", name_,
                   "': ", bytes, " bytes asked, ", buffer_.bytes() - used_, " free of ",
                   buffer_.bytes());
  std::byte* p = planning || buffer_.data() == nullptr ? nullptr : buffer_.data() + used_;
  used_ += rounded;
  peak_ = std::max(peak_, used_);
  return p;
}

}  // namespace stipple
