// SPDX-License-Identifier: Apache-2.0
// Makes pthread_create fail, as a limit on processes or memory does. A test program that names this
// class has a pthread_create of its own.
#pragma once

namespace stipple::test {

/// While it lives, the first `allowed` threads start and all later ones are refused with EAGAIN.
class RefusedThreads {
 public:
  explicit RefusedThreads(int allowed);
  ~RefusedThreads();
  RefusedThreads(const RefusedThreads&) = delete;
  RefusedThreads& operator=(const RefusedThreads&) = delete;
};

}  // namespace stipple::test
