// SPDX-License-Identifier: Apache-2.0
#include "core/buffer.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "core/cuda/runtime.h"
#include "core/error.h"

namespace stipple {
namespace {

// What gathers rows from all over a large buffer misses the TLB at nearly every row if its pages are
// small. A wish: where the system refuses, they are.
std::byte* allocate_on_host(size_t bytes) {
  constexpr size_t kHugePage = size_t{2} << 20;
  const bool is_large = bytes >= 2 * kHugePage;
  void* data = nullptr;
  if (posix_memalign(&data, is_large ? kHugePage : Buffer::kAlignment, bytes) != 0) return nullptr;
  if (is_large) madvise(data, bytes, MADV_HUGEPAGE);
  return static_cast<std::byte*>(data);
}

}  // namespace

Buffer::Buffer(Device device, size_t bytes) : device_(device), bytes_(bytes) {
  if (device.type == DeviceType::kMeta || bytes == 0) return;
  if (device.type == DeviceType::kCuda) {
    data_ = {static_cast<std::byte*>(cuda::allocate(device.index, bytes)), Free{Kind::kCuda}};
    return;
  }
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  data_.reset(allocate_on_host(rounded));
  STIPPLE_CHECK_AS(MemoryError, data_ != nullptr, "out of memory: ", bytes, " bytes asked for");
  std::memset(data_.get(), 0, rounded);
}

Buffer Buffer::staging(Device device, size_t bytes) {
  if (device.type != DeviceType::kCuda || bytes == 0) {
    return {device.type == DeviceType::kMeta ? device : kCpuDevice, bytes};
  }
  cuda::use_device(device.index);
  Buffer buffer;
  buffer.bytes_ = bytes;
  buffer.data_ = {static_cast<std::byte*>(cuda::allocate_pinned(bytes)), Free{Kind::kPinned}};
  return buffer;
}

void Buffer::Free::operator()(std::byte* p) const {
  switch (kind) {
    case Kind::kHost:
      return std::free(p);
    case Kind::kPinned:
      return cuda::release_pinned(p);
    case Kind::kCuda:
      return cuda::release(p);
  }
}

}  // namespace stipple
