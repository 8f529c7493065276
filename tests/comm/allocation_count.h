// SPDX-License-Identifier: Apache-2.0
// Counts calls of operator new in the whole process. Replaces the global operators: include in one
// source file of a program. They are kept out of line because the compiler, seeing half of a pair
// inlined, takes new and free for a mismatch.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace stipple::test {
inline std::atomic<int64_t> allocations = 0;
}  // namespace stipple::test

[[gnu::noinline]] void* operator new(std::size_t bytes) {
  ++stipple::test::allocations;
  if (void* p = std::malloc(bytes)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }
