// SPDX-License-Identifier: Apache-2.0
// Counts calls of operator new in the whole process. Replaces the global operators: include in one
// source file of a program. They are kept out of line because the compiler, seeing half of a pair
// inlined, takes new and free for a mismatch.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace stipple::test {

inline std::atomic<int64_t> allocations = 0;

inline void* counted(std::size_t bytes, std::size_t alignment) noexcept {
  ++allocations;
  return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}

inline void* counted_or_throw(std::size_t bytes, std::size_t alignment) {
  if (void* p = counted(bytes, alignment)) return p;
  throw std::bad_alloc();
}

}  // namespace stipple::test

[[gnu::noinline]] void* operator new(std::size_t bytes) {
  return stipple::test::counted_or_throw(bytes, alignof(std::max_align_t));
}
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return stipple::test::counted(bytes, alignof(std::max_align_t));
}
[[gnu::noinline]] void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return stipple::test::counted_or_throw(bytes, static_cast<std::size_t>(alignment));
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t, std::align_val_t) noexcept {
  std::free(p);
}
