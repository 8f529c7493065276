// SPDX-License-Identifier: Apache-2.0
// Cuts a worker's scratch into buffers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace stipple::kernels::cpu {

/// Hands out consecutive pieces of memory; with no memory it only counts, so that sizes and
/// addresses come from the same lines.
class Cutter {
 public:
  explicit Cutter(std::byte* base) : base_(base) {}
  template <class T>
  T* take(int64_t count) {
    constexpr size_t kLine = 64;
    T* piece = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += (static_cast<size_t>(count) * sizeof(T) + kLine - 1) / kLine * kLine;
    return piece;
  }
  int64_t used() const { return static_cast<int64_t>(used_); }

 private:
  std::byte* base_;
  size_t used_ = 0;
};

/// What cut(cutter, arguments ...) takes.
template <class Cut, class... Args>
int64_t bytes_of(const Cut& cut, const Args&... args) {
  Cutter counts(nullptr);
  cut(counts, args...);
  return counts.used();
}

}  // namespace stipple::kernels::cpu
