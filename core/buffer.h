// SPDX-License-Identifier: Apache-2.0
// Owns a block of bytes on one device. Move-only; zeroed at creation; nothing is stored on meta.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/device.h"

namespace stipple {

class Buffer {
 public:
  /// Every allocation of device memory starts on this boundary (a cache-line pair; what NCCL and
  /// AVX-512 want).
  static constexpr size_t kAlignment = 128;

  Buffer() = default;
  /// MemoryError when the memory cannot be had, naming the size.
  Buffer(Device device, size_t bytes);
  /// Host memory to stage what goes to or comes from `device`: page-locked for CUDA, so that copies
  /// run by themselves.
  static Buffer staging(Device device, size_t bytes);

  std::byte* data() const { return data_.get(); }
  size_t bytes() const { return bytes_; }
  Device device() const { return device_; }

 private:
  enum class Kind : uint8_t { kHost, kPinned, kCuda };
  struct Free {
    Kind kind;  // no initialiser: nvcc takes it for a missing constructor
    void operator()(std::byte* p) const;
  };
  Device device_;
  size_t bytes_ = 0;
  std::unique_ptr<std::byte, Free> data_;
};

}  // namespace stipple
