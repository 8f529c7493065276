// SPDX-License-Identifier: Apache-2.0
#include "core/arena.h"

#include <algorithm>

#include "core/error.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace stipple {
namespace {

#if defined(__SANITIZE_ADDRESS__)
void open(const std::byte* begin, size_t bytes) { ASAN_UNPOISON_MEMORY_REGION(begin, bytes); }
void close(const std::byte* begin, size_t bytes) { ASAN_POISON_MEMORY_REGION(begin, bytes); }
#else
void open(const std::byte*, size_t) {}
void close(const std::byte*, size_t) {}
#endif

}  // namespace

Arena::Arena(std::string name, Device device, size_t bytes)
    : name_(std::move(name)), device_(device), buffer_(device, round_up(bytes)) {
  if (is_host_memory()) close(buffer_.data(), buffer_.bytes());
}

void Arena::rewind(Mark mark) {
  if (is_host_memory() && mark < used_) close(buffer_.data() + mark, used_ - mark);
  used_ = mark;
}

size_t Arena::round_up(size_t bytes) {
  return (bytes + Buffer::kAlignment - 1) / Buffer::kAlignment * Buffer::kAlignment;
}

void* Arena::take(size_t bytes) {
  const size_t rounded = round_up(bytes);
  const bool planning = device_.type == DeviceType::kMeta;
  STIPPLE_CHECK_AS(ArenaError, planning || rounded <= buffer_.bytes() - used_, "arena '", name_,
                   "': ", bytes, " bytes asked, ", buffer_.bytes() - used_, " free of ",
                   buffer_.bytes());
  constexpr size_t kMaxPlanned = size_t{1} << 60;  // several of these still fit into 64 bits
  STIPPLE_CHECK_AS(SizeError, !planning || rounded <= kMaxPlanned - used_, "arena '", name_,
                   "' would take more bytes than any machine holds");
  std::byte* p = planning || buffer_.data() == nullptr ? nullptr : buffer_.data() + used_;
  if (is_host_memory()) open(p, rounded);
  used_ += rounded;
  peak_ = std::max(peak_, used_);
  return p;
}

}  // namespace stipple
