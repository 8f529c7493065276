// SPDX-License-Identifier: Apache-2.0
// One launch at a time, one block at a time, one thread at a time: so everything here is plain
// memory behind one mutex. Nothing is thread_local, because a fiber may go on in another host
// thread than it began in.
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "cuda_on_cpu/kernel.h"
#include "cuda_on_cpu/warp.h"
#include "fault.h"
#include "fiber.h"
#include "runtime.h"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace cuda_on_cpu {

int current_lane = 0;

namespace {

enum class State : uint8_t { kReady, kAtBarrier, kInWarp, kDone };

struct Copy {
  void* to;
  const void* from;
};

struct Thread {
  Fiber* fiber = nullptr;  ///< nullptr: not begun, or done
  uint3 index{};
  State state = State::kReady;
  std::source_location where;
  std::vector<Copy> copies;         ///< not yet arrived, oldest first
  std::vector<size_t> group_sizes;  ///< of the closed groups among them
  size_t open_copies = 0;           ///< in the group not yet closed
};

struct Warp {
  int arrived = 0;
  WarpFunction function = nullptr;
  std::source_location where;
  std::array<void*, kLanes> operands{};
};

/// The dynamic shared memory of the running block. It ends, to within 128 bytes, at a page that
/// nobody may touch.
class SharedMemory {
 public:
  void reset(size_t bytes) {
    if (base_ == nullptr) map();
    const size_t rounded = (bytes + 127) / 128 * 128;
    begin_ = base_ + kBytes - rounded;
    std::memset(begin_, 0xFF, rounded);
  }
  std::byte* begin() const { return begin_; }
  bool is_guard(const void* p) const {
    const auto* address = static_cast<const std::byte*>(p);
    return base_ != nullptr && ((address < base_ && address >= base_ - kPage) ||
                                (address >= base_ + kBytes && address < base_ + kBytes + kPage));
  }

 private:
  static constexpr size_t kPage = 4096;
  static constexpr size_t kBytes = (kMaxSharedBytes + kPage - 1) / kPage * kPage;

  void map() {
    void* p = mmap(nullptr, kBytes + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED ||
        mprotect(static_cast<std::byte*>(p) + kPage, kBytes, PROT_READ | PROT_WRITE) != 0) {
      std::perror("cuda_on_cpu: shared memory");
      std::abort();
    }
    base_ = static_cast<std::byte*>(p) + kPage;
  }

  std::byte* base_ = nullptr;
  std::byte* begin_ = nullptr;
};

/// splitmix64
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t x = state_ += 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
  }
  uint32_t below(uint32_t bound) { return static_cast<uint32_t>((next() >> 32) * bound >> 32); }

 private:
  uint64_t state_;
};

uint64_t first_seed() {
  const char* text = std::getenv("STIPPLE_CUDA_ON_CPU_SEED");
  return text == nullptr ? 1 : std::strtoull(text, nullptr, 10);
}

class Scheduler {
 public:
  void run(const LaunchConfig&, void (*call)(const void*), const void* body);
  void wait_at_barrier(const std::source_location&);
  void warp_wide(WarpFunction, void* operand, const std::source_location&);
  void describe(char* text, size_t size) const;
  bool explain(const void* address, char* text, size_t size) const;
  Thread& current() { return threads_[current_]; }
  SharedMemory& shared() { return shared_; }
  void seed(uint64_t value) { random_ = Random(value); }

 private:
  static void fiber_entry();
  void prepare_threads();
  void run_block();
  void run_threads();
  void finish_thread();
  void release_barrier();
  void pause();
  void go_to(uint32_t thread);
  void become(uint32_t thread);
  Fiber* idle_fiber();
  uint32_t take_ready();
  void make_ready(uint32_t thread) {
    threads_[thread].state = State::kReady;
    ready_.push_back(static_cast<uint16_t>(thread));
  }
  void shuffle_ready(size_t from);
  [[noreturn]] void report_stuck();
  std::string thread_name(uint32_t thread) const;

  LaunchConfig config_;
  void (*call_)(const void*) = nullptr;
  const void* body_ = nullptr;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<uint16_t> ready_;
  uint32_t count_ = 0;  ///< threads of the block
  uint32_t live_ = 0;
  uint32_t at_barrier_ = 0;
  std::source_location barrier_;
  uint32_t current_ = 0;
  bool is_running_ = false;

  std::deque<Fiber> fibers_;
  std::vector<Fiber*> idle_;
  Fiber* running_ = nullptr;
  Fiber* host_ = nullptr;
  SharedMemory shared_;
  Random random_{first_seed()};
};

Scheduler& scheduler() {
  static auto* instance = [] {
    auto* made = new Scheduler;  // its stacks stay mapped until the process ends
    explain_faults_with([](const void* address, char* text, size_t size) {
      return scheduler().explain(address, text, size);
    });
    return made;
  }();
  return *instance;
}

std::mutex& launch_mutex() {
  static std::mutex mutex;
  return mutex;
}

// --- a launch

void Scheduler::run(const LaunchConfig& config, void (*call)(const void*), const void* body) {
  config_ = config;
  call_ = call;
  body_ = body;
  blockDim = config.block;
  gridDim = config.grid;
  count_ = config.block.x * config.block.y * config.block.z;
  prepare_threads();
  Fiber host;
  host_ = &host;
  const uint64_t blocks = uint64_t{config.grid.x} * config.grid.y * config.grid.z;
  // Any order of the blocks must do: a rotation, forwards or backwards.
  const uint64_t first = random_.next() % blocks;
  const bool backwards = (random_.next() & 1) != 0;
  is_running_ = true;
  for (uint64_t i = 0; i < blocks; ++i) {
    const uint64_t turned = (first + i) % blocks;
    const uint64_t block = backwards ? blocks - 1 - turned : turned;
    blockIdx = {static_cast<unsigned>(block % config.grid.x),
                static_cast<unsigned>(block / config.grid.x % config.grid.y),
                static_cast<unsigned>(block / config.grid.x / config.grid.y)};
    run_block();
  }
  is_running_ = false;
}

void Scheduler::prepare_threads() {
  if (threads_.size() < count_) threads_.resize(count_);
  warps_.resize((count_ + kLanes - 1) / kLanes);
  const dim3 block = config_.block;
  for (uint32_t i = 0; i < count_; ++i) {
    threads_[i].index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
  }
}

void Scheduler::run_block() {
  shared_.reset(config_.shared_bytes);
  for (Warp& warp : warps_) warp.arrived = 0;
  ready_.clear();
  for (uint32_t i = 0; i < count_; ++i) {
    threads_[i].copies.clear();
    threads_[i].group_sizes.clear();
    threads_[i].open_copies = 0;
    make_ready(i);
  }
  shuffle_ready(0);
  live_ = count_;
  at_barrier_ = 0;
  become(take_ready());
  running_ = idle_fiber();
  current().fiber = running_;
  host_->switch_to(*running_);
}

// --- fibers. A fiber that ends a thread begins the next one itself, so kernels without barriers
// never switch.

void Scheduler::fiber_entry() { scheduler().run_threads(); }

void Scheduler::run_threads() {
  for (;;) {
    call_(body_);
    finish_thread();
    Fiber* own = running_;
    if (live_ == 0) {
      idle_.push_back(own);
      running_ = host_;
      own->switch_to(*host_);
      continue;
    }
    const uint32_t next = take_ready();
    become(next);
    if (current().fiber == nullptr) {
      current().fiber = own;
      continue;
    }
    idle_.push_back(own);
    running_ = current().fiber;
    own->switch_to(*running_);
  }
}

void Scheduler::finish_thread() {
  current().state = State::kDone;
  current().fiber = nullptr;
  --live_;
  if (live_ > 0 && at_barrier_ == live_) release_barrier();
}

void Scheduler::become(uint32_t thread) {
  current_ = thread;
  current_lane = static_cast<int>(thread % kLanes);
  threadIdx = threads_[thread].index;
}

Fiber* Scheduler::idle_fiber() {
  if (idle_.empty()) return &fibers_.emplace_back(&Scheduler::fiber_entry);
  Fiber* fiber = idle_.back();
  idle_.pop_back();
  return fiber;
}

/// The running thread waits; returns when somebody made it ready and it was its turn.
void Scheduler::pause() {
  const uint32_t next = take_ready();
  if (next == current_) return;
  Fiber* own = running_;
  become(next);
  if (current().fiber == nullptr) current().fiber = idle_fiber();
  running_ = current().fiber;
  own->switch_to(*running_);
}

// --- who is next

uint32_t Scheduler::take_ready() {
  if (ready_.empty()) report_stuck();
  const uint32_t next = ready_.back();
  ready_.pop_back();
  return next;
}

void Scheduler::shuffle_ready(size_t from) {
  for (size_t i = ready_.size(); i > from + 1; --i) {
    std::swap(ready_[i - 1], ready_[from + random_.below(static_cast<uint32_t>(i - from))]);
  }
}

void Scheduler::wait_at_barrier(const std::source_location& where) {
  if (at_barrier_ > 0 && barrier_.line() != where.line()) {
    const std::string what = "sync_threads here (" + std::string(where.file_name()) + ":" +
                             std::to_string(where.line()) +
                             "), while others of the block wait at " + barrier_.file_name() + ":" +
                             std::to_string(barrier_.line());
    fail(what.c_str());
  }
  barrier_ = where;
  current().state = State::kAtBarrier;
  current().where = where;
  if (++at_barrier_ == live_) release_barrier();
  pause();
}

void Scheduler::release_barrier() {
  at_barrier_ = 0;
  const size_t from = ready_.size();
  for (uint32_t i = 0; i < count_; ++i) {
    if (threads_[i].state == State::kAtBarrier) make_ready(i);
  }
  shuffle_ready(from);
}

void Scheduler::warp_wide(WarpFunction function, void* operand, const std::source_location& where) {
  const uint32_t first = current_ / kLanes * kLanes;
  Warp& warp = warps_[current_ / kLanes];
  if (warp.arrived == 0) {
    warp.function = function;
    warp.where = where;
  } else if (warp.function != function || warp.where.line() != where.line()) {
    const std::string what = "the warp diverged: this lane is at " +
                             std::string(where.file_name()) + ":" + std::to_string(where.line()) +
                             ", others wait for it at " + warp.where.file_name() + ":" +
                             std::to_string(warp.where.line());
    fail(what.c_str());
  }
  warp.operands[current_ - first] = operand;
  if (++warp.arrived < kLanes) {
    current().state = State::kInWarp;
    current().where = where;
    pause();
    return;
  }
  function(warp.operands.data());
  warp.arrived = 0;
  const auto turn = static_cast<uint32_t>(random_.next()) % kLanes;
  for (uint32_t i = 0; i < kLanes; ++i) {
    const uint32_t lane = first + (i ^ turn);
    if (lane != current_) make_ready(lane);
  }
}

// --- messages

std::string Scheduler::thread_name(uint32_t thread) const {
  const uint3 i = threads_[thread].index;
  return "thread (" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " +
         std::to_string(i.z) + ")";
}

void Scheduler::describe(char* text, size_t size) const {
  if (size > 0) text[0] = '\0';
  if (!is_running_) return;
  std::snprintf(
      text, size, "%s, launched at %s:%" PRIu32 ", block (%u, %u, %u), thread (%u, %u, %u): ",
      readable_kernel_name(config_.kernel).c_str(), config_.where.file_name(), config_.where.line(),
      blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
}

bool Scheduler::explain(const void* address, char* text, size_t size) const {
  if (shared_.is_guard(address)) {
    std::snprintf(text, size, "out of bounds of the block's %zu bytes of shared memory",
                  config_.shared_bytes);
    return true;
  }
  if (is_running_ && running_->is_guard(address)) {
    std::snprintf(text, size, "the stack of a thread overflowed");
    return true;
  }
  return false;
}

/// Every live thread waits, and nothing can come that they wait for.
void Scheduler::report_stuck() {
  for (uint32_t i = 0; i < count_; ++i) {
    const Thread& thread = threads_[i];
    if (thread.state != State::kInWarp) continue;
    const uint32_t first = i / kLanes * kLanes;
    std::string why = "its warp has only " + std::to_string(count_ - first) + " lanes";
    for (uint32_t other = first; other < std::min(first + kLanes, count_); ++other) {
      const State state = threads_[other].state;
      if (state == State::kDone) why = thread_name(other) + " has returned";
      if (state == State::kAtBarrier) {
        why = thread_name(other) + " waits at the barrier in line " +
              std::to_string(threads_[other].where.line());
      }
    }
    become(i);
    const std::string what = "waits for its whole warp at " +
                             std::string(thread.where.file_name()) + ":" +
                             std::to_string(thread.where.line()) + ", but " + why;
    fail(what.c_str());
  }
  fail("internal: no thread can go on");
}

}  // namespace

void describe_running_thread(char* text, size_t size) { scheduler().describe(text, size); }

void detail::run_kernel(const LaunchConfig& config, void (*call)(const void*), const void* body) {
  const std::lock_guard lock(launch_mutex());
  const DeviceAccess access;
  scheduler().run(config, call, body);
}

void set_seed(uint64_t seed) {
  const std::lock_guard lock(launch_mutex());
  scheduler().seed(seed);
}

void wait_at_barrier(const std::source_location& where) { scheduler().wait_at_barrier(where); }

void warp_wide(WarpFunction function, void* operand, const std::source_location& where) {
  scheduler().warp_wide(function, operand, where);
}

std::byte* dynamic_shared_memory() { return scheduler().shared().begin(); }

void start_copy(void* to, const void* from, bool is_valid) {
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0)
    fail("cp.async: the target is not 16-byte aligned");
  if (is_valid && reinterpret_cast<uintptr_t>(from) % 16 != 0) {
    fail("cp.async: the source is not 16-byte aligned");
  }
  Thread& thread = scheduler().current();
  thread.copies.push_back({to, is_valid ? from : nullptr});
  ++thread.open_copies;
}

void commit_copies() {
  Thread& thread = scheduler().current();
  thread.group_sizes.push_back(std::exchange(thread.open_copies, 0));
}

void finish_copies(int groups_left) {
  Thread& thread = scheduler().current();
  const auto left = static_cast<size_t>(groups_left);
  if (thread.group_sizes.size() <= left) return;
  const auto groups = static_cast<std::ptrdiff_t>(thread.group_sizes.size() - left);
  std::ptrdiff_t done = 0;
  for (std::ptrdiff_t group = 0; group < groups; ++group) {
    const auto end =
        done + static_cast<std::ptrdiff_t>(thread.group_sizes[static_cast<size_t>(group)]);
    for (; done < end; ++done) {
      const Copy& copy = thread.copies[static_cast<size_t>(done)];
      if (copy.from == nullptr) {
        std::memset(copy.to, 0, 16);
      } else {
        std::memcpy(copy.to, copy.from, 16);
      }
    }
  }
  thread.copies.erase(thread.copies.begin(), thread.copies.begin() + done);
  thread.group_sizes.erase(thread.group_sizes.begin(), thread.group_sizes.begin() + groups);
}

void fail(const char* what) {
  std::array<char, 512> place{};
  describe_running_thread(place.data(), place.size());
  std::fprintf(stderr, "cuda_on_cpu: %s%s\n", place.data(), what);
  std::abort();
}

}  // namespace cuda_on_cpu
