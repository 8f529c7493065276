// SPDX-License-Identifier: Apache-2.0
#include "core/copy.h"

#include <cstring>

#include "core/cuda/runtime.h"

namespace stipple {

void copy_bytes(const Stream& stream, void* to, const void* from, size_t bytes) {
  if (bytes == 0 || stream.device().type == DeviceType::kMeta) return;
  if (stream.device().type == DeviceType::kCuda)
    return cuda::copy(to, from, bytes, stream.native());
  std::memcpy(to, from, bytes);
}

void fill_zero_bytes(const Stream& stream, void* to, size_t bytes) {
  if (bytes == 0 || stream.device().type == DeviceType::kMeta) return;
  if (stream.device().type == DeviceType::kCuda) return cuda::fill_zero(to, bytes, stream.native());
  std::memset(to, 0, bytes);
}

}  // namespace stipple
