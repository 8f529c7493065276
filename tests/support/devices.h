// SPDX-License-Identifier: Apache-2.0
// Runs an operation's test on every device that this build and machine have: the CPU, and CUDA,
// real or emulated.
//
//   for (Device device : test_devices()) {
//     DeviceMemory memory(device);
//     View<float> y = memory.zeros<float>({n, c});
//     kernels::layernorm(memory.stream(), {.y = y, .x = memory.put(x), ...});
//     expect_close(memory.get(y), expected, 1e-5);
//   }
#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "core/arena.h"
#include "core/copy.h"
#include "core/cuda/runtime.h"
#include "core/stream.h"
#include "tests/support/arrays.h"

namespace stipple::test {

inline std::vector<Device> test_devices() {
  std::vector<Device> devices = {kCpuDevice};
  if (cuda::device_count() > 0) devices.push_back(cuda_device(0));
  return devices;
}

inline std::string name_of(Device device) {
  return device.type == DeviceType::kCuda ? "cuda" : "cpu";
}

/// Arrays of one test on one device. Fresh memory is filled with NaN bytes, so that what an
/// operation fails to write shows.
class DeviceMemory {
 public:
  explicit DeviceMemory(Device device, Stream::Options options = {},
                        size_t scratch_bytes = 64 << 20)
      : stream_(device, options), scratch_("scratch", device, scratch_bytes) {}

  const Stream& stream() const { return stream_; }
  Arena& scratch() { return scratch_; }

  template <class T>
  View<T> put(const Array<T>& host) {
    const View<T> view = take<T>(host.shape());
    upload(stream_, view, std::span<const T>(host.values()));
    return view;
  }
  template <class T>
  View<T> put(View<const T> host) {
    const View<T> view = take<T>(host.shape);
    upload(stream_, view, host.span());
    return view;
  }
  template <class T>
  View<T> zeros(Shape shape) {
    return put(Array<T>(shape));
  }
  /// Undefined contents.
  template <class T>
  View<T> fresh(Shape shape) {
    Array<T> poison(shape);
    if (poison.numel() > 0) {
      std::memset(static_cast<void*>(poison.values().data()), 0xFF,
                  poison.values().size() * sizeof(T));
    }
    return put(poison);
  }
  template <class T>
  Array<std::remove_const_t<T>> get(View<T> view) {
    Array<std::remove_const_t<T>> host(view.shape);
    download(stream_, std::span<std::remove_const_t<T>>(host.values()), view);
    return host;
  }

 private:
  template <class T>
  View<T> take(Shape shape) {
    const Buffer& buffer = buffers_.emplace_back(
        stream_.device(), std::max<size_t>(1, static_cast<size_t>(shape.numel()) * sizeof(T)));
    return {reinterpret_cast<T*>(buffer.data()), shape};
  }

  Stream stream_;
  Arena scratch_;
  std::vector<Buffer> buffers_;
};

}  // namespace stipple::test
