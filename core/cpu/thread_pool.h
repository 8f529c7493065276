// SPDX-License-Identifier: Apache-2.0
// Worker threads of one CPU stream. Not OpenMP: its runtime hides the synchronisation from the
// thread sanitizer, and a library called from inside a worker (oneDNN) must not start threads of
// its own.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "core/function_ref.h"

namespace stipple::cpu {

class ThreadPool {
 public:
  /// ConfigError when the machine refuses one of them; those that run already have ended then.
  explicit ThreadPool(int threads);
  ~ThreadPool() { stop(); }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }
  void run(int64_t count, FunctionRef<void(int64_t, int)> body);

 private:
  void stop();
  void work(int worker);
  void drain(int worker, FunctionRef<void(int64_t, int)> body);

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable start_;
  std::condition_variable done_;
  const FunctionRef<void(int64_t, int)>* body_ = nullptr;
  int64_t count_ = 0;
  std::atomic<int64_t> next_{0};
  uint64_t generation_ = 0;
  size_t busy_ = 0;
  bool stopping_ = false;
  std::exception_ptr error_;
};

}  // namespace stipple::cpu
