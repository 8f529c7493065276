// SPDX-License-Identifier: Apache-2.0
// An ordered queue of work on one device. On the CPU work runs at once, on the stream's own worker threads;
// on meta nothing runs.
//
//   Stream stream(kCpuDevice, {.threads = 2});
//   kernels::layernorm(stream, {...});
#pragma once

#include <memory>

#include "core/device.h"
#include "core/function_ref.h"

namespace stipple {

namespace cpu {
class ThreadPool;
}

class Stream {
 public:
  struct Options {
    int threads = 1;  ///< How many CPU threads share the work, the caller's included (on meta: would share it).
  };

  explicit Stream(Device device) : Stream(device, Options{}) {}
  Stream(Device device, Options options);
  ~Stream();
  Stream(Stream&&) noexcept;
  Stream& operator=(Stream&&) noexcept;

  Device device() const { return device_; }
  int threads() const { return options_.threads; }

  /// CPU only: calls body(i, worker) once for every i in [0, count), worker in [0, threads()), and returns when all are
  /// done. Which worker gets which i is not fixed, so a body may use `worker` to find scratch memory and for nothing else:
  /// then results cannot depend on the number of threads. The first exception is rethrown here. Not reentrant.
  void parallel_for(int64_t count, FunctionRef<void(int64_t i, int worker)> body) const;

 private:
  Device device_;
  Options options_;
  std::unique_ptr<cpu::ThreadPool> pool_;
};

}  // namespace stipple
