// SPDX-License-Identifier: Apache-2.0
// Work is done when it is enqueued, so streams have nothing to keep but what is being captured from
// them. A capture is a list of closures in the order in which they came; every stream in it
// remembers how much of the list each stream's next work comes after.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
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
/// Told the stream in which it runs: of a graph, the one that it is launched in.
using Work = std::function<void(CUstream_st*)>;
}  // namespace

struct CUstream_st {
  std::shared_ptr<Capture> capture;
  Passed passed;
  /// The last record of all that the host knows to have passed, if it was of this stream.
  std::shared_ptr<uint64_t> known = std::make_shared<uint64_t>(0);
};

struct CUevent_st {
  bool is_timed = true;
  std::chrono::steady_clock::time_point time;
  uint64_t record = 0;               ///< number of its last record among all; 0: never recorded
  std::shared_ptr<uint64_t> known;   ///< of the stream of that record
  std::shared_ptr<Capture> capture;  ///< it was last recorded in, not to be replayed
  Passed passed;
};

struct CUgraph_st {
  std::vector<Work> work;
};
struct CUgraphExec_st {
  std::vector<Work> work;
};

namespace {

struct Capture {
  CUstream_st* origin = nullptr;
  std::thread::id thread;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  bool is_valid = true;
  bool is_over = false;
  std::vector<CUstream_st*> streams;
  std::vector<Work> work;
};

std::mutex& mutex() {  // of all streams, events and captures
  static std::mutex instance;
  return instance;
}

std::vector<std::shared_ptr<Capture>>& captures() {
  static std::vector<std::shared_ptr<Capture>> under_way;
  return under_way;
}

uint64_t& last_record() {
  static uint64_t number = 0;
  return number;
}

/// What the host knows of the stream's records, or, for the null stream, of everybody's.
std::shared_ptr<uint64_t>& known_of(CUstream_st* stream) {
  static auto of_device = std::make_shared<uint64_t>(0);
  return stream == nullptr ? of_device : stream->known;
}

/// STIPPLE_CUDA_ON_CPU_HANG=n: the n-th record of an event never comes back, as with a driver whose
/// device is gone.
void hang_when_asked() {
  static const char* const number = std::getenv("STIPPLE_CUDA_ON_CPU_HANG");
  static std::atomic<int64_t> records = 0;
  if (number == nullptr || ++records != std::atoll(number)) return;
  while (true) std::this_thread::sleep_for(std::chrono::hours(1));
}

bool is_under_way(const CUevent_st& event) {
  return event.record > 0 && event.record > std::max(*event.known, *known_of(nullptr));
}

void record_now(CUevent_st& event, CUstream_st* stream) {
  event.record = ++last_record();
  event.known = known_of(stream);
  event.time = std::chrono::steady_clock::now();
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

cudaError_t run_or_capture(CUstream_st* stream, Work work) {
  {
    const std::lock_guard lock(mutex());
    if (stream != nullptr && stream->capture != nullptr) {
      Capture& capture = *stream->capture;
      if (!capture.is_valid) return cuda_on_cpu::note(cudaErrorStreamCaptureInvalidated);
      capture.work.push_back(std::move(work));
      stream->passed[stream] = capture.work.size();
      return cudaSuccess;
    }
  }
  const cuda_on_cpu::DeviceAccess access;
  work(stream);
  return cudaSuccess;
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
  return run_or_capture(stream, [work = std::move(work)](CUstream_st*) { work(); });
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
  *known_of(stream) = last_record();
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
  *known_of(nullptr) = last_record();
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
  return cudaEventRecordWithFlags(event, stream, cudaEventRecordDefault);
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
  if (event == nullptr) return note(cudaErrorInvalidResourceHandle);
  hang_when_asked();
  const bool is_captured = cuda_on_cpu::detail::is_capturing(stream);
  if (flags == cudaEventRecordExternal) {
    if (!is_captured) return note(cudaErrorInvalidValue);
    return run_or_capture(stream, [event](CUstream_st* of_launch) {
      const std::lock_guard lock(mutex());
      event->capture = nullptr;
      record_now(*event, of_launch);
    });
  }
  const std::lock_guard lock(mutex());
  event->capture = is_captured ? stream->capture : nullptr;
  event->passed.clear();
  if (is_captured) {
    event->passed = stream->passed;
  } else {
    record_now(*event, stream);
  }
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event == nullptr) return note(cudaErrorInvalidResourceHandle);
  const std::lock_guard lock(mutex());
  if (event->capture != nullptr) return invalidate(*event->capture, cudaErrorCapturedEvent);
  if (is_under_way(*event)) *event->known = event->record;
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (event == nullptr) return note(cudaErrorInvalidResourceHandle);
  const std::lock_guard lock(mutex());
  if (event->capture != nullptr) return invalidate(*event->capture, cudaErrorCapturedEvent);
  if (!is_under_way(*event)) return cudaSuccess;
  *event->known = last_record();  // by the next question the whole stream has come so far
  return note(cudaErrorNotReady);
}

cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t begin, cudaEvent_t end) {
  if (begin == nullptr || end == nullptr) return note(cudaErrorInvalidResourceHandle);
  const std::lock_guard lock(mutex());
  // Recorded in a capture without the flag for it, an event gets no time in any replay.
  if (begin->capture != nullptr || end->capture != nullptr) return note(cudaErrorInvalidValue);
  if (!begin->is_timed || !end->is_timed || begin->record == 0 || end->record == 0) {
    return note(cudaErrorInvalidResourceHandle);
  }
  if (is_under_way(*begin) || is_under_way(*end)) return note(cudaErrorNotReady);
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
  return run_or_capture(stream, [work = executable->work](CUstream_st* of_launch) {
    for (const Work& step : work) step(of_launch);
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
