// SPDX-License-Identifier: Apache-2.0
// The program's own pthread_create is found before the library's.
#include "tests/support/refused_threads.h"

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <limits>

namespace {
constexpr int kAll = std::numeric_limits<int>::max();
std::atomic<int> allowed_threads{kAll};
}  // namespace

extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                              void* (*body)(void*), void* argument) {
  using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  static const auto next = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
  if (allowed_threads != kAll && allowed_threads-- <= 0) return EAGAIN;
  return next(thread, attributes, body, argument);
}

namespace stipple::test {

RefusedThreads::RefusedThreads(int allowed) { allowed_threads = allowed; }
RefusedThreads::~RefusedThreads() { allowed_threads = kAll; }

}  // namespace stipple::test
