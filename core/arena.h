// SPDX-License-Identifier: Apache-2.0
// Bump allocation from one buffer that was sized by a dry run: the steady-state step allocates
// nothing, and gets the same addresses each time. On meta an arena has no buffer and no limit, it
// only counts: that is the dry run. Where the address sanitizer watches, host memory that is not
// allocated, or no longer, is closed: who touches it ends.
//
//   Arena scratch("scratch", kCpuDevice, planned_bytes);
//   {
//     Arena::Scope scope(scratch);
//     View<float> t = scratch.alloc<float>({n, d});
//   }  // memory back
#pragma once

#include <cstddef>
#include <string>

#include "core/buffer.h"
#include "core/real_view.h"
#include "core/view.h"

namespace stipple {

class Arena {
 public:
  using Mark = size_t;

  /// A planning arena (meta): unlimited, counts only.
  explicit Arena(std::string name, Device meta = kMetaDevice)
      : name_(std::move(name)), device_(meta) {}
  /// bytes is rounded up to a multiple of Buffer::kAlignment.
  Arena(std::string name, Device device, size_t bytes);

  /// Memory for shape, aligned to Buffer::kAlignment, contents undefined. ArenaError when it does
  /// not fit.
  template <class T>
  View<T> alloc(Shape shape) {
    void* p = take(static_cast<size_t>(shape.numel()) * sizeof(T));
    return {static_cast<T*>(p), shape};
  }

  /// The same, stored as fp32 or bf16.
  RealView alloc(Precision storage, const Shape& shape) {
    return {take(static_cast<size_t>(shape.numel()) * bytes_of(storage)), shape, storage};
  }

  Mark mark() const { return used_; }
  void rewind(Mark mark);
  size_t used() const { return used_; }
  size_t peak() const { return peak_; }  ///< most bytes in use at one time since construction
  size_t capacity() const { return buffer_.bytes(); }
  const std::string& name() const { return name_; }
  Device device() const { return device_; }

  /// Rewinds at the end of its scope.
  class Scope {
   public:
    explicit Scope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
    ~Scope() { arena_.rewind(mark_); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Arena& arena_;
    Mark mark_;
  };

 private:
  void* take(size_t bytes);
  bool is_host_memory() const {
    return device_.type == DeviceType::kCpu && buffer_.data() != nullptr;
  }
  static size_t round_up(size_t bytes);

  std::string name_;
  Device device_;
  Buffer buffer_;
  size_t used_ = 0;
  size_t peak_ = 0;
};

}  // namespace stipple
