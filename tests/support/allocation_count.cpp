// SPDX-License-Identifier: Apache-2.0
#include "tests/support/allocation_count.h"

#include <malloc.h>

#include <cstddef>
#include <cstdlib>
#include <new>

namespace stipple::test {

std::atomic<int64_t> allocations = 0;
std::atomic<int64_t> live_bytes = 0;
std::atomic<int64_t> most_live_bytes = 0;

namespace {

void* counted(std::size_t bytes, std::size_t alignment) noexcept {
  ++allocations;
  void* const p = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  const int64_t live = live_bytes += static_cast<int64_t>(malloc_usable_size(p));
  int64_t most = most_live_bytes;
  while (live > most && !most_live_bytes.compare_exchange_weak(most, live)) {
  }
  return p;
}

void give_back(void* p) noexcept {
  live_bytes -= static_cast<int64_t>(malloc_usable_size(p));
  std::free(p);
}

void* counted_or_throw(std::size_t bytes, std::size_t alignment) {
  if (void* p = counted(bytes, alignment)) return p;
  throw std::bad_alloc();
}

}  // namespace
}  // namespace stipple::test

void* operator new(std::size_t bytes) {
  return stipple::test::counted_or_throw(bytes, alignof(std::max_align_t));
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return stipple::test::counted(bytes, alignof(std::max_align_t));
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return stipple::test::counted_or_throw(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* p) noexcept { stipple::test::give_back(p); }
void operator delete(void* p, std::size_t) noexcept { stipple::test::give_back(p); }
void operator delete(void* p, std::align_val_t) noexcept { stipple::test::give_back(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept {
  stipple::test::give_back(p);
}
