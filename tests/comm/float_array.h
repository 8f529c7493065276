// SPDX-License-Identifier: Apache-2.0
// Floats in the memory that a communicator under test works on: the host's, or a device's.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "core/buffer.h"
#include "core/copy.h"
#include "core/stream.h"

namespace stipple::comm::test {

class FloatArray {
 public:
  /// stream: of the device; null: host memory.
  FloatArray(const Stream* stream, const std::vector<float>& values)
      : stream_(stream),
        size_(values.size()),
        buffer_(stream == nullptr ? kCpuDevice : stream->device(),
                std::max<size_t>(1, size_ * sizeof(float))) {
    put(values, 0);
  }

  std::span<float> span() const { return {data(), size_}; }
  std::vector<float> get() const { return get(stream_, {data(), {static_cast<int64_t>(size_)}}); }
  void put(const std::vector<float>& values, size_t at) {
    const auto count = static_cast<int64_t>(values.size());
    if (stream_ == nullptr) {
      std::copy(values.begin(), values.end(), data() + at);
    } else {
      upload(*stream_, View<float>{data() + at, {count}}, values);
    }
  }

  static std::vector<float> get(const Stream* stream, View<const float> view) {
    std::vector<float> values(static_cast<size_t>(view.numel()));
    if (stream == nullptr) {
      std::copy_n(view.data, values.size(), values.begin());
    } else {
      download(*stream, std::span<float>(values), view);
    }
    return values;
  }

 private:
  float* data() const { return reinterpret_cast<float*>(buffer_.data()); }

  const Stream* stream_;
  size_t size_;
  Buffer buffer_;
};

}  // namespace stipple::comm::test
