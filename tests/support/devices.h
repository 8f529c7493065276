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
#include <array>
#include <cmath>
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

/// How a device may store activations.
inline std::vector<Precision> test_storages(Device device) {
  if (device.type != DeviceType::kCuda) return {Precision::kFp32};
  return {Precision::kFp32, Precision::kBf16};
}

/// Every two of them.
inline std::vector<std::array<Precision, 2>> test_storage_pairs(Device device) {
  std::vector<std::array<Precision, 2>> pairs;
  for (Precision first : test_storages(device)) {
    for (Precision second : test_storages(device)) pairs.push_back({first, second});
  }
  return pairs;
}

/// Every element is expected[i], up to tolerance times the largest, and one rounding to `storage`.
template <class A, class B>
void expect_stored(const A& actual, const B& expected, Precision storage, double tolerance) {
  ASSERT_EQ(actual.values().size(), expected.values().size());
  double scale = 1e-6;
  for (auto e : expected.values()) scale = std::max(scale, std::abs(static_cast<double>(e)));
  const double rounding = storage == Precision::kBf16 ? 1.0 / 256 : 0.0;
  for (size_t i = 0; i < expected.values().size(); ++i) {
    const double e = static_cast<double>(expected.values()[i]);
    const double d = std::abs(static_cast<double>(actual.values()[i]) - e);
    ASSERT_LE(d, tolerance * scale + rounding * std::abs(e))
        << "element " << i << ": " << actual.values()[i] << " instead of " << expected.values()[i]
        << ", stored as " << stipple::name_of(storage);
  }
}

/// What is left of an array that is stored so.
inline Array<float> rounded(Array<float> host, Precision storage) {
  if (storage == Precision::kFp32) return host;
  for (float& x : host.values()) x = to_float(to_bf16(x));
  return host;
}

/// Arrays of one test on one device. Fresh memory is filled with NaN bytes, so that what an
/// operation fails to write shows.
class DeviceMemory {
 public:
  explicit DeviceMemory(Device device, Stream::Options options = {},
                        size_t scratch_bytes = 16 << 20)
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

  // Arrays stored as fp32 or bf16, fp32 on the host.
  RealView put(const Array<float>& host, Precision storage) {
    if (storage == Precision::kFp32) return put(host);
    Array<bf16> rounded(host.shape());
    std::transform(host.values().begin(), host.values().end(), rounded.values().begin(), to_bf16);
    return put(rounded);
  }
  RealView fresh(const Shape& shape, Precision storage) {
    return with_real_type(storage,
                          [&](auto zero) { return RealView(fresh<decltype(zero)>(shape)); });
  }
  Array<float> get(ConstRealView view) {
    Array<float> host(view.shape);
    with_real_type(view.precision, [&](auto zero) {
      const auto stored = get(view.as<decltype(zero)>());
      for (int64_t i = 0; i < stored.numel(); ++i) host[i] = to_float(stored[i]);
    });
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
