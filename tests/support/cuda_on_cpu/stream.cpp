// SPDX-License-Identifier: Apache-2.0
// Work is done when it is enqueued, so streams have nothing to keep but what is being captured from
// them. A capture is a list of closures in the order in which they came; every stream in it
// remembers how much of the list each stream's next work comes after.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "cuda_on_cpu/host.h"
#include "cuda_on_cpu/kernel.h"
#include "runtime.h"

namespace {
struct Capture;
/// For every stream of a capture, the position of the last of its work that comes before.
using Passed = std::map<const CUstream_st*, size_t>;
}  // namespace

struct CUstream_st {
  std::shared_ptr<Capture> capture;
  Passed passed;
  std::shared_ptr<uint64_t> waits = std::make_shared<uint64_t>(0);  ///< of the host for it
};

struct CUevent_st {
  bool is_timed = true;
  std::chrono::steady_clock::time_point time;
  bool is_recorded = false;
  std::shared_ptr<Capture> capture;  ///< it was last recorded in
  Passed passed;
  bool is_news = false;  ///< nobody has asked for it yet, or waited
  std::shared_ptr<uint64_t> waits;
  uint64_t waits_before = 0;
};

struct CUgraph_st {
  std::vector<std::function<void()>> work;
};
struct CUgraphExec_st {
  std::vector<std::function<void()>> work;
};

namespace {

struct Capture {
  CUstream_st* origin = nullptr;
  std::thread::id thread;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  bool is_valid = true;
  bool is_over = false;
  std::vector<CUstream_st*> streams;
  std::vector<std::function<void()>> work;
};

std::mutex& mutex() {  // of all streams, events and captures
  static std::mutex instance;
  return instance;
}

std::vector<std::shared_ptr<Capture>>& captures() {
  static std::vector<std::shared_ptr<Capture>> under_way;
  return under_way;
}

/// The host's waits for the stream, with those for the device for the null stream.
std::shared_ptr<uint64_t>& waits_of(CUstream_st* stream) {
  static auto device_waits = std::make_shared<uint64_t>(0);
  return stream == nullptr ? device_waits : stream->waits;
}

/// Destroyed streams, to be created again: addresses of streams repeat soon on a GPU, too.
std::vector<CUstream_st*>& unused_streams() {
  static auto& streams =
      *new std::vector<CUstream_st*>;  // reachable until the end: streams may outlive statics
  return streams;
}

/// All its streams are free again.
void end(const std::shared_ptr<Capture>& capture) {
  capture->is_over = true;
  for (CUstream_st* stream : capture->streams) {
    stream->capture = nullptr;
    stream->passed.clear();
  }
  std::erase(captures(), capture);
}

void join(const std::shared_ptr<Capture>& capture, CUstream_st* stream) {
  stream->capture = capture;
  stream->passed.clear();
  capture->streams.push_back(stream);
}

cudaError_t invalidate(Capture& capture, cudaError_t error) {
  capture.is_valid = false;
  return cuda_on_cpu::note(error);
}

}  // namespace

namespace cuda_on_cpu {

bool detail::is_capturing(cudaStream_t stream) {
  if (stream == nullptr) return false;
  const std::lock_guard lock(mutex());
  return stream->capture != nullptr;
}

bool is_forbidden_by_capture() {
  const std::lock_guard lock(mutex());
  bool is_forbidden = false;
  for (const auto& capture : captures()) {
    const bool is_own = capture->thread == std::this_thread::get_id();
    if (capture->mode == cudaStreamCaptureModeRelaxed ||
        (capture->mode == cudaStreamCaptureModeThreadLocal && !is_own)) {
      continue;
    }
    capture->is_valid = false;
    is_forbidden = true;
  }
  return is_forbidden;
}

cudaError_t enqueue(cudaStream_t stream, std::function<void()> work) {
  {
    const std::lock_guard lock(mutex());
    if (stream != nullptr && stream->capture != nullptr) {
      Capture& capture = *stream->capture;
      if (!capture.is_valid) return note(cudaErrorStreamCaptureInvalidated);
      capture.work.push_back(std::move(work));
      stream->passed[stream] = capture.work.size();
      return cudaSuccess;
    }
  }
  const DeviceAccess access;
  work();
  return cudaSuccess;
}

}  // namespace cuda_on_cpu

using cuda_on_cpu::note;

// --- streams

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const std::lock_guard lock(mutex());
  std::vector<CUstream_st*>& unused = unused_streams();
  if (unused.empty()) {
    *stream = new CUstream_st;
  } else {
    *stream = unused.back();
    unused.pop_back();
  }
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (stream == nullptr) return note(cudaErrorInvalidResourceHandle);
  const std::lock_guard lock(mutex());
  if (const std::shared_ptr<Capture> capture = stream->capture) {
    if (capture->origin == stream) end(capture);
    std::erase(capture->streams, stream);
    capture->is_valid = false;
  }
  *stream = {};
  unused_streams().push_back(stream);
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (const cudaError_t error = cudaStreamQuery(stream)) return error;
  const std::lock_guard lock(mutex());
  ++*waits_of(stream);
  return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const std::lock_guard lock(mutex());
  if (stream != nullptr && stream->capture != nullptr) {
    return invalidate(*stream->capture, cudaErrorStreamCaptureUnsupported);
  }
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  if (cuda_on_cpu::is_forbidden_by_capture()) return note(cudaErrorStreamCaptureUnsupported);
  const std::lock_guard lock(mutex());
  ++*waits_of(nullptr);
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (event == nullptr) return note(cudaErrorInvalidResourceHandle);
  const std::lock_guard lock(mutex());
  const bool is_captured = event->capture != nullptr && !event->capture->is_over;
  if (stream == nullptr) return note(is_captured ? cudaErrorStreamCaptureImplicit : cudaSuccess);
  if (stream->capture == nullptr) {
    if (event->capture == nullptr) return cudaSuccess;
    if (event->capture->is_over) return note(cudaErrorCapturedEvent);
    join(event->capture, stream);
  } else if (event->capture == nullptr || event->capture->is_over) {
    return invalidate(*stream->capture, cudaErrorStreamCaptureIsolation);
  } else if (event->capture != stream->capture) {
    return invalidate(*stream->capture, cudaErrorStreamCaptureMerge);
  }
  for (const auto& [other, position] : event->passed) {
    size_t& known = stream->passed[other];
    known = std::max(known, position);
  }
  return cudaSuccess;
}

// --- events

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  *event = new CUevent_st;
  (*event)->is_timed = (flags & cudaEventDisableTiming) == 0;
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  if (event == nullptr) return note(cudaErrorInvalidResourceHandle);
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (event == nullptr) return note(cudaErrorInvalidResourceHandle);
  const std::lock_guard lock(mutex());
  event->capture = stream == nullptr ? nullptr : stream->capture;
  event->passed.clear();
  if (event->capture != nullptr) {
    event->passed = stream->passed;
    return cudaSuccess;
  }
  event->is_recorded = true;
  event->is_news = true;
  event->waits = waits_of(stream);
  event->waits_before = *event->waits + *waits_of(nullptr);
  event->time = std::chrono::steady_clock::now();
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event == nullptr) return note(cudaErrorInvalidResourceHandle);
  const std::lock_guard lock(mutex());
  if (event->capture != nullptr) return invalidate(*event->capture, cudaErrorCapturedEvent);
  event->is_news = false;
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (event == nullptr) return note(cudaErrorInvalidResourceHandle);
  bool is_under_way = false;
  {
    const std::lock_guard lock(mutex());
    is_under_way = event->capture == nullptr && event->is_news &&
                   *event->waits + *waits_of(nullptr) == event->waits_before;
    if (is_under_way) ++*event->waits;  // by the next question the whole stream has come so far
  }
  if (const cudaError_t error = cudaEventSynchronize(event)) return error;
  return note(is_under_way ? cudaErrorNotReady : cudaSuccess);
}

cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t begin, cudaEvent_t end) {
  if (begin == nullptr || end == nullptr) return note(cudaErrorInvalidResourceHandle);
  const std::lock_guard lock(mutex());
  if (begin->capture != nullptr || end->capture != nullptr) return note(cudaErrorCapturedEvent);
  if (!begin->is_timed || !end->is_timed || !begin->is_recorded || !end->is_recorded) {
    return note(cudaErrorInvalidResourceHandle);
  }
  *ms = std::chrono::duration<float, std::milli>(end->time - begin->time).count();
  return cudaSuccess;
}

// --- graphs

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  if (stream == nullptr) return note(cudaErrorStreamCaptureUnsupported);
  const std::lock_guard lock(mutex());
  if (stream->capture != nullptr) return note(cudaErrorInvalidValue);
  auto capture = std::make_shared<Capture>();
  capture->origin = stream;
  capture->thread = std::this_thread::get_id();
  capture->mode = mode;
  join(capture, stream);
  captures().push_back(std::move(capture));
  return cudaSuccess;
}

namespace {

bool has_joined_all(const Capture& capture) {
  for (const CUstream_st* stream : capture.streams) {
    const auto last = stream->passed.find(stream);
    if (last == stream->passed.end()) continue;
    const auto known = capture.origin->passed.find(stream);
    if (known == capture.origin->passed.end() || known->second < last->second) return false;
  }
  return true;
}

}  // namespace

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  if (stream == nullptr) return note(cudaErrorInvalidValue);
  const std::lock_guard lock(mutex());
  const std::shared_ptr<Capture> capture = stream->capture;
  if (capture == nullptr) return note(cudaErrorInvalidValue);
  if (capture->origin != stream) return invalidate(*capture, cudaErrorStreamCaptureUnmatched);
  if (capture->mode == cudaStreamCaptureModeThreadLocal &&
      capture->thread != std::this_thread::get_id()) {
    return invalidate(*capture, cudaErrorStreamCaptureWrongThread);
  }
  const bool is_joined = has_joined_all(*capture);
  end(capture);
  if (!capture->is_valid) return note(cudaErrorStreamCaptureInvalidated);
  if (!is_joined) return note(cudaErrorStreamCaptureUnjoined);
  *graph = new CUgraph_st{std::move(capture->work)};
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  if (stream == nullptr) return cudaSuccess;
  const std::lock_guard lock(mutex());
  if (stream->capture == nullptr) return cudaSuccess;
  *status = stream->capture->is_valid ? cudaStreamCaptureStatusActive
                                      : cudaStreamCaptureStatusInvalidated;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long) {
  if (graph == nullptr) return note(cudaErrorInvalidValue);
  *executable = new CUgraphExec_st{graph->work};
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  if (executable == nullptr) return note(cudaErrorInvalidValue);
  return cuda_on_cpu::enqueue(stream, [work = executable->work] {
    for (const auto& step : work) step();
  });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  if (graph == nullptr) return note(cudaErrorInvalidValue);
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  if (executable == nullptr) return note(cudaErrorInvalidValue);
  delete executable;
  return cudaSuccess;
}
