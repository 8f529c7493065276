// SPDX-License-Identifier: Apache-2.0
#include "core/buffer.h"

#include <cstdlib>
#include <cstring>

#include "core/error.h"

namespace stipple {

Buffer::Buffer(Device device, size_t bytes) : device_(device), bytes_(bytes) {
  STIPPLE_CHECK(device.type != DeviceType::kCuda, "this build has no CUDA backend");
  if (device.type == DeviceType::kMeta || bytes == 0) return;
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  data_.reset(static_cast<std::byte*>(std::aligned_alloc(kAlignment, rounded)));
  STIPPLE_CHECK(data_ != nullptr, "out of memory: ", bytes, " bytes asked for");
  std::memset(data_.get(), 0, rounded);
}

void Buffer::Free::operator()(std::byte* p) const { std::free(p); }

}  // namespace stipple
