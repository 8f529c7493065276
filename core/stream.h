// SPDX-License-Identifier: Apache-2.0
// An ordered queue of work on one device. On the CPU work runs at once, on the stream's own worker
// threads; on CUDA it is enqueued and the host goes on; on meta nothing runs.
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

/// A point in a stream's work. On the CPU, where work is done when its call returns, it only keeps
/// the time.
///
/// Two kinds, which differ where a stream is captured: one that is timed becomes part of the graph,
/// so that every replay records it anew, and nothing captured can wait for it; one that is not
/// orders captured work, and says nothing outside the capture.
class Event {
 public:
  explicit Event(Device, bool is_timed = true);
  bool has_passed() const;
  void synchronize() const;  ///< the host waits
  /// Both are timed and have passed, as the host knows from a synchronize() of this or a later
  /// point of the stream.
  double ms_since(const Event& begin) const;

 private:
  friend class Stream;
  struct Destroy {
    void operator()(void* event) const;
  };
  bool is_timed_;
  std::unique_ptr<void, Destroy> event_;
  double host_ms_ = 0;
};

class Stream {
 public:
  struct Options {
    int threads = 1;  ///< How many CPU threads share the work, the caller's included (on meta:
                      ///< would share it).
    Precision precision = Precision::kFp32;  ///< of products and activations on this stream
  };

  explicit Stream(Device device) : Stream(device, Options{}) {}
  Stream(Device device, Options options);
  ~Stream();
  Stream(Stream&&) noexcept;
  Stream& operator=(Stream&&) noexcept;

  Device device() const { return device_; }
  int threads() const { return options_.threads; }
  Precision precision() const { return options_.precision; }

  /// On the CPU calls body(i, worker) once for every i in [0, count), worker in [0, threads()), and
  /// returns when all are done; on meta does nothing. Which worker gets which i is not fixed, so a
  /// body may use `worker` to find scratch memory and for nothing else: then results cannot depend
  /// on the number of threads. The first exception is rethrown here. Not reentrant.
  void parallel_for(int64_t count, FunctionRef<void(int64_t i, int worker)> body) const;

  void record(Event&) const;
  void wait(const Event&)
      const;  ///< what comes later in this stream waits for the event; the host does not
  void synchronize() const;  ///< the host waits for everything enqueued so far. CudaError of what
                             ///< failed on the way.

  /// On meta: operations only count the memory that they would take.
  bool is_plan() const { return device_.type == DeviceType::kMeta; }

  /// CUDA only: the cudaStream_t.
  void* native() const { return native_.get(); }

 private:
  struct Destroy {
    void operator()(void* stream) const;
  };
  Device device_;
  Options options_;
  std::unique_ptr<cpu::ThreadPool> pool_;
  std::unique_ptr<void, Destroy> native_;
};

}  // namespace stipple
