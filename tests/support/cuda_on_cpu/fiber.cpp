// SPDX-License-Identifier: Apache-2.0
#include "fiber.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

#if CUDA_ON_CPU_ADDRESS_SANITIZER
#include <sanitizer/common_interface_defs.h>
#endif

namespace cuda_on_cpu {
namespace {

// Instrumented frames are several times larger.
#if CUDA_ON_CPU_ADDRESS_SANITIZER
constexpr size_t kStackBytes = 256 << 10;
#else
constexpr size_t kStackBytes = 64 << 10;
#endif
constexpr size_t kGuardBytes = 1 << 20;  // more than a frame that a kernel could have

/// Fibers live as long as the process, so nothing unmaps it.
std::byte* map_stack() {
  void* p = mmap(nullptr, kGuardBytes + kStackBytes, PROT_NONE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  auto* stack = static_cast<std::byte*>(p) + kGuardBytes;
  if (p == MAP_FAILED || mprotect(stack, kStackBytes, PROT_READ | PROT_WRITE) != 0) {
    std::perror("cuda_on_cpu: stack of a thread");
    std::abort();
  }
  return stack;
}

Fiber* newcomer = nullptr;  // fcontext passes one pointer, and that is who left

}  // namespace

Fiber::Fiber(void (*entry)()) : entry_(entry) {
  // Stacks that began at the same place within their pages would push each other out of the cache.
  static size_t made = 0;
  constexpr size_t kStep = 512, kSteps = 8;
  std::byte* stack = map_stack();
  bottom_ = stack;
  bytes_ = kStackBytes - made++ % kSteps * kStep;
  context_ = boost::context::detail::make_fcontext(stack + bytes_, bytes_, &Fiber::enter);
}

void Fiber::enter(boost::context::detail::transfer_t transfer) {
  Fiber* self = newcomer;
  self->arrive(transfer);
  self->entry_();
}

void Fiber::switch_to(Fiber& to) {
  newcomer = &to;
  leave_for(to);
  arrive(boost::context::detail::jump_fcontext(to.context_, this));
}

bool Fiber::is_guard(const void* p) const {
  const auto* address = static_cast<const std::byte*>(p);
  const auto* bottom = static_cast<const std::byte*>(bottom_);
  return address < bottom && address >= bottom - kGuardBytes;
}

#if CUDA_ON_CPU_ADDRESS_SANITIZER
void Fiber::leave_for(const Fiber& to) {
  __sanitizer_start_switch_fiber(&sanitizer_state_, to.bottom_, to.bytes_);
}
void Fiber::arrive(boost::context::detail::transfer_t transfer) {
  auto* previous = static_cast<Fiber*>(transfer.data);
  previous->context_ = transfer.fctx;
  __sanitizer_finish_switch_fiber(sanitizer_state_, &previous->bottom_, &previous->bytes_);
}
#else
void Fiber::leave_for(const Fiber&) {}
void Fiber::arrive(boost::context::detail::transfer_t transfer) {
  static_cast<Fiber*>(transfer.data)->context_ = transfer.fctx;
}
#endif

}  // namespace cuda_on_cpu
