// SPDX-License-Identifier: Apache-2.0
// Owns a block of bytes on one device. Move-only; zeroed at creation; nothing is stored on meta.
#pragma once

#include <cstddef>
#include <memory>

#include "core/device.h"

namespace stipple {

class Buffer {
 public:
  /// Every allocation of device memory starts on this boundary (a cache-line pair; what NCCL and AVX-512 want).
  static constexpr size_t kAlignment = 128;

  Buffer() = default;
  /// Error when the memory cannot be had, naming the size.
  Buffer(Device device, size_t bytes);

  std::byte* data() const { return data_.get(); }
  size_t bytes() const { return bytes_; }
  Device device() const { return device_; }

 private:
  struct Free {
    void operator()(std::byte* p) const;
  };
  Device device_;
  size_t bytes_ = 0;
  std::unique_ptr<std::byte, Free> data_;
};

}  // namespace stipple
