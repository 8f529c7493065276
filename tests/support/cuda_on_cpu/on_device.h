// SPDX-License-Identifier: Apache-2.0
// An array on device 0, with its copies in and out: for the tests of the emulation itself, which
// come before tests/support/devices.h.
#pragma once

#include <cstddef>
#include <memory>
#include <random>
#include <vector>

#include "core/cuda/runtime.h"

namespace cuda_on_cpu {

template <class T>
class OnDevice {
 public:
  explicit OnDevice(size_t count)
      : count_(count), data_(stipple::cuda::allocate(0, count * sizeof(T))) {}
  explicit OnDevice(const std::vector<T>& values) : OnDevice(values.size()) {
    stipple::cuda::copy(data_.get(), values.data(), count_ * sizeof(T), nullptr);
  }
  T* data() const { return static_cast<T*>(data_.get()); }
  std::vector<T> get() const {
    std::vector<T> values(count_);
    stipple::cuda::copy(values.data(), data_.get(), count_ * sizeof(T), nullptr);
    return values;
  }

 private:
  struct Release {
    void operator()(void* p) const { stipple::cuda::release(p); }
  };
  size_t count_;
  std::unique_ptr<void, Release> data_;
};

inline std::vector<float> random_floats(size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  std::vector<float> values(count);
  for (float& x : values) x = uniform(generator);
  return values;
}

}  // namespace cuda_on_cpu
