// SPDX-License-Identifier: Apache-2.0
#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "cuda_on_cpu/host.h"
#include "fault.h"

namespace cuda_on_cpu {
namespace {

constexpr size_t kPage = 4096;
// Where the system has them, pages of 2 MiB make opening and closing a large piece cheap.
constexpr size_t kLargePage = size_t{2} << 20;
constexpr size_t kAlignment = 128;
constexpr size_t kRangeBytes = size_t{1} << 39;

size_t round_up(size_t x, size_t step) { return (x + step - 1) / step * step; }

[[noreturn]] void stop(const char* what) {
  std::perror(what);
  std::abort();
}

struct Piece {
  uintptr_t begin = 0;  ///< what the program got
  size_t bytes = 0;
  size_t pages_bytes = 0;
  int device = 0;
};

class Range {
 public:
  static Range& get() {
    static auto* range = new Range;  // outlives every static object that frees memory
    return *range;
  }

  bool holds(const void* p) const {
    const auto address = reinterpret_cast<uintptr_t>(p);
    return address >= begin_ && address < begin_ + kRangeBytes;
  }

  void* allocate(int device, size_t bytes, size_t device_bytes);
  bool release(void* p);
  size_t used(int device);
  void open();
  void close();
  bool explain(const void* p, char* text, size_t size) const;

 private:
  Range();
  uintptr_t find_room(size_t bytes, size_t alignment);
  const Piece* nearest(uintptr_t address) const;
  void protect(uintptr_t pages, size_t bytes, int protection) {
    if (mprotect(reinterpret_cast<void*>(pages), bytes, protection) != 0) {
      stop("cuda_on_cpu: device memory");
    }
  }

  std::mutex mutex_;
  uintptr_t begin_ = 0;
  uintptr_t cursor_ = 0;
  std::map<uintptr_t, Piece> pieces_;  ///< by first page
  std::map<int, size_t> used_;
  int opened_ = 0;
};

Range::Range() {
  void* p =
      mmap(nullptr, kRangeBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) stop("cuda_on_cpu: reserving the addresses of device memory");
  begin_ = cursor_ = reinterpret_cast<uintptr_t>(p);
  explain_faults_with([](const void* address, char* text, size_t size) {
    return Range::get().explain(address, text, size);
  });
}

/// Goes on behind the last piece, so that freed addresses stay closed for long.
uintptr_t Range::find_room(size_t bytes, size_t alignment) {
  for (int round = 0; round < 2; ++round) {
    uintptr_t candidate = round_up(cursor_, alignment);
    auto piece = pieces_.begin();
    while (piece != pieces_.end() && candidate + bytes <= begin_ + kRangeBytes) {
      const uintptr_t end = piece->first + piece->second.pages_bytes + kPage;
      const bool is_apart = end <= candidate || piece->first >= candidate + bytes;
      if (!is_apart) candidate = round_up(end, alignment);
      ++piece;
    }
    if (candidate + bytes <= begin_ + kRangeBytes) return candidate;
    cursor_ = begin_;
  }
  return 0;
}

void* Range::allocate(int device, size_t bytes, size_t device_bytes) {
  const std::lock_guard lock(mutex_);
  const size_t aligned = round_up(std::max<size_t>(bytes, 1), kAlignment);
  size_t& used = used_[device];
  if (aligned > device_bytes || used > device_bytes - aligned) return nullptr;
  const bool is_large = aligned >= kLargePage;
  const size_t pages_bytes = round_up(aligned, is_large ? kLargePage : kPage);
  const uintptr_t pages = find_room(pages_bytes + kPage, is_large ? kLargePage : kPage);
  if (pages == 0) return nullptr;
  cursor_ = pages + pages_bytes + kPage;
  if (is_large) madvise(reinterpret_cast<void*>(pages), pages_bytes, MADV_HUGEPAGE);
  const Piece piece{pages + pages_bytes - aligned, bytes, pages_bytes, device};
  pieces_[pages] = piece;
  used += aligned;
  if (opened_ > 0) protect(pages, pages_bytes, PROT_READ | PROT_WRITE);
  return reinterpret_cast<void*>(piece.begin);
}

bool Range::release(void* p) {
  const std::lock_guard lock(mutex_);
  auto found = pieces_.upper_bound(reinterpret_cast<uintptr_t>(p));
  if (found == pieces_.begin()) return false;
  --found;
  const auto& [pages, piece] = *found;
  if (piece.begin != reinterpret_cast<uintptr_t>(p)) return false;
  used_[piece.device] -= round_up(std::max<size_t>(piece.bytes, 1), kAlignment);
  if (mmap(reinterpret_cast<void*>(pages), piece.pages_bytes, PROT_NONE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED) {
    stop("cuda_on_cpu: freeing device memory");
  }
  pieces_.erase(found);
  return true;
}

size_t Range::used(int device) {
  const std::lock_guard lock(mutex_);
  return used_[device];
}

void Range::open() {
  const std::lock_guard lock(mutex_);
  if (opened_++ > 0) return;
  for (const auto& [pages, piece] : pieces_)
    protect(pages, piece.pages_bytes, PROT_READ | PROT_WRITE);
}

void Range::close() {
  const std::lock_guard lock(mutex_);
  if (--opened_ > 0) return;
  for (const auto& [pages, piece] : pieces_) protect(pages, piece.pages_bytes, PROT_NONE);
}

/// The allocation that an address was probably meant for.
const Piece* Range::nearest(uintptr_t address) const {
  const auto after = pieces_.upper_bound(address);
  const Piece* next = after == pieces_.end() ? nullptr : &after->second;
  if (after == pieces_.begin()) return next;
  const Piece& previous = std::prev(after)->second;
  const uintptr_t end = previous.begin + previous.bytes;
  const bool is_closer_to_next =
      next != nullptr && address > end && next->begin - address < address - end;
  return is_closer_to_next ? next : &previous;
}

/// Called in a crash: takes no lock.
bool Range::explain(const void* p, char* text, size_t size) const {
  if (!holds(p)) return false;
  const auto address = reinterpret_cast<uintptr_t>(p);
  const Piece* piece = nearest(address);
  if (piece == nullptr) {
    std::snprintf(text, size, "%p is device memory, and nothing is allocated there", p);
    return true;
  }
  const auto offset = static_cast<ssize_t>(address - piece->begin);
  const bool is_inside = address >= piece->begin && address < piece->begin + piece->bytes;
  std::snprintf(text, size, "%s device memory at %p, byte %zd of %zu allocated",
                is_inside && opened_ == 0 ? "host code touched" : "out of bounds of", p, offset,
                piece->bytes);
  return true;
}

}  // namespace

void* allocate_device_memory(int device, size_t bytes, size_t device_bytes) {
  return Range::get().allocate(device, bytes, device_bytes);
}
bool release_device_memory(void* p) { return Range::get().release(p); }
size_t used_device_memory(int device) { return Range::get().used(device); }
bool is_device_memory(const void* p) { return Range::get().holds(p); }

void zero_device_memory(void* p, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(p);
  const uintptr_t pages = round_up(begin, kLargePage);
  const uintptr_t end = (begin + bytes) / kLargePage * kLargePage;
  if (pages >= end) {
    std::memset(p, 0, bytes);
    return;
  }
  std::memset(p, 0, pages - begin);
  std::memset(reinterpret_cast<void*>(end), 0, begin + bytes - end);
  if (madvise(reinterpret_cast<void*>(pages), end - pages, MADV_DONTNEED) != 0) {
    stop("cuda_on_cpu: clearing device memory");
  }
}

DeviceAccess::DeviceAccess() { Range::get().open(); }
DeviceAccess::~DeviceAccess() { Range::get().close(); }

}  // namespace cuda_on_cpu
