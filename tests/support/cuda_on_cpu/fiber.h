// SPDX-License-Identifier: Apache-2.0
// A stack of its own and the way to it (Boost.Context's fcontext). AddressSanitizer is told of
// every switch.
#pragma once

#include <boost/context/detail/fcontext.hpp>
#include <cstddef>

namespace cuda_on_cpu {

class Fiber {
 public:
  Fiber() = default;                ///< the host thread's own stack
  explicit Fiber(void (*entry)());  ///< a new stack; entry never returns
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Goes on in `to`; returns when somebody switches back to this one, which must be the running
  /// one.
  void switch_to(Fiber& to);
  bool is_guard(const void* p) const;  ///< what a stack overflow touches

 private:
  static void enter(boost::context::detail::transfer_t);
  void leave_for(const Fiber& to);
  void arrive(boost::context::detail::transfer_t);

  boost::context::detail::fcontext_t context_ = nullptr;
  void (*entry_)() = nullptr;
  const void* bottom_ = nullptr;
  size_t bytes_ = 0;
  void* sanitizer_state_ = nullptr;
};

}  // namespace cuda_on_cpu
