// SPDX-License-Identifier: Apache-2.0
// Work is done when it is enqueued, so streams have nothing to keep but what is being captured from
// them, and, where streams are deferred (deferred.h), what waits. A capture is a list of closures in
// the order in which they came; every stream in it remembers how much of the list each stream's next
// work comes after.
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
#include "deferred.h"
#include "runtime.h"

namespace {
struct Capture;
/// For every stream of a capture, the position of the last of its work that comes before.
using Passed = std::map<const CUstream_st*, size_t>;
/// Told the stream in which it runs: of a graph, the one that it is launched in.
using Work = std::function<void(CUstream_st*)>;
/// Work of a graph, with the positions in it, from 1 on, of what comes before.
struct Node {
  Work work;
  std::vector<size_t> after;
};
}  // namespace

struct CUstream_st {
  std::shared_ptr<Capture> capture;
  Passed passed;
  /// The last record of all that the host knows to have passed, if it was of this stream.
  std::shared_ptr<uint64_t> known = std::make_shared<uint64_t>(0);
  std::unique_ptr<cuda_on_cpu::StreamQueue> queue = std::make_unique<cuda_on_cpu::StreamQueue>();
};

struct CUevent_st {
  bool is_timed = true;
  uint64_t record = 0;  ///< number of its last record among all; 0: never recorded
  std::shared_ptr<cuda_on_cpu::Marker> marker;  ///< of that record
  std::shared_ptr<uint64_t> known;              ///< of the stream of that record
  std::shared_ptr<Capture> capture;             ///< it was last recorded in, not to be replayed
  Passed passed;
};

struct CUgraph_st {
  std::vector<Node> nodes;
};
struct CUgraphExec_st {
  std::vector<Node> nodes;
};

namespace {

struct Capture {
  CUstream_st* origin = nullptr;
  std::thread::id thread;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  bool is_valid = true;
  bool is_over = false;
  std::vector<CUstream_st*> streams;
  std::vector<Node> nodes;
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
  if (event.record == 0) return false;
  // Deferred, an event passes when it does; else the host has to ask for it or wait.
  if (cuda_on_cpu::are_streams_deferred()) return !has_passed(*event.marker);
  return event.record > std::max(*event.known, *known_of(nullptr));
}

cuda_on_cpu::StreamQueue& queue_of(CUstream_st* stream) {
  static auto& of_null = *new cuda_on_cpu::StreamQueue;
  return stream == nullptr ? of_null : *stream->queue;
}

/// The marker has yet to pass.
void start_record(CUevent_st& event, CUstream_st* stream) {
  event.record = ++last_record();
  event.known = known_of(stream);
  event.marker = std::make_shared<cuda_on_cpu::Marker>();
}

void record_now(CUevent_st& event, CUstream_st* stream) {
  start_record(event, stream);
  event.marker->pass();
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
      Node node{std::move(work), {}};
      for (const auto& [other, position] : stream->passed) node.after.push_back(position);
      capture.nodes.push_back(std::move(node));
      stream->passed[stream] = capture.nodes.size();
      return cudaSuccess;
    }
  }
  const auto run = [work = std::move(work), stream] {
    const cuda_on_cpu::DeviceAccess access;
    work(stream);
  };
  if (cuda_on_cpu::are_streams_deferred()) {
    queue_of(stream).push(run);
  } else {
    run();
  }
  return cudaSuccess;
}

/// As captured, or, where streams are deferred, in any order that the capture's events allow.
void run_nodes(const std::vector<Node>& nodes, CUstream_st* of_launch) {
  if (!cuda_on_cpu::are_streams_deferred()) {
    for (const Node& node : nodes) node.work(of_launch);
    return;
  }
  std::vector<bool> is_done(nodes.size() + 1, false);
  for (size_t left = nodes.size(); left > 0; --left) {
    std::vector<size_t> ready;
    for (size_t i = 0; i < nodes.size(); ++i) {
      const auto has_run = [&](size_t position) { return position == 0 || is_done[position]; };
      if (!is_done[i + 1] && std::ranges::all_of(nodes[i].after, has_run)) ready.push_back(i);
    }
    const size_t chosen = ready[cuda_on_cpu::random_below(ready.size())];
    nodes[chosen].work(of_launch);
    is_done[chosen + 1] = true;
  }
}

cudaError_t refuse_capture(CUstream_st* stream) {
  const std::lock_guard lock(mutex());
  if (stream == nullptr || stream->capture == nullptr) return cudaSuccess;
  return invalidate(*stream->capture, cudaErrorStreamCaptureUnsupported);
}

}  // namespace

namespace cuda_on_cpu {

bool detail::is_enqueued(cudaStream_t stream) {
  return are_streams_deferred() || is_capturing(stream);
}

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
  stream->queue->run_all();
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
  if (const cudaError_t error = refuse_capture(stream)) return error;
  uint64_t known = 0;
  {
    const std::lock_guard lock(mutex());
    known = last_record();
  }
  queue_of(stream).run_all();
  const std::lock_guard lock(mutex());
  *known_of(stream) = std::max(*known_of(stream), known);
  return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  if (const cudaError_t error = refuse_capture(stream)) return error;
  cuda_on_cpu::run_a_piece();
  return queue_of(stream).is_empty() ? cudaSuccess : note(cudaErrorNotReady);
}

cudaError_t cudaDeviceSynchronize() {
  if (cuda_on_cpu::is_forbidden_by_capture()) return note(cudaErrorStreamCaptureUnsupported);
  cuda_on_cpu::run_everything();
  const std::lock_guard lock(mutex());
  *known_of(nullptr) = last_record();
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (event == nullptr) return note(cudaErrorInvalidResourceHandle);
  const std::lock_guard lock(mutex());
  const bool is_captured = event->capture != nullptr && !event->capture->is_over;
  if (is_captured && stream == nullptr) return note(cudaErrorStreamCaptureImplicit);
  if (stream == nullptr || stream->capture == nullptr) {
    if (event->capture == nullptr) {
      if (event->marker != nullptr) queue_of(stream).push_wait(event->marker);
      return cudaSuccess;
    }
    if (stream == nullptr) return cudaSuccess;
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
  } else if (cuda_on_cpu::are_streams_deferred()) {
    start_record(*event, stream);
    queue_of(stream).push_record(event->marker);
  } else {
    record_now(*event, stream);
  }
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event == nullptr) return note(cudaErrorInvalidResourceHandle);
  std::shared_ptr<cuda_on_cpu::Marker> marker;
  {
    const std::lock_guard lock(mutex());
    if (event->capture != nullptr) return invalidate(*event->capture, cudaErrorCapturedEvent);
    if (!is_under_way(*event)) return cudaSuccess;
    *event->known = std::max(*event->known, event->record);
    marker = event->marker;
  }
  cuda_on_cpu::run_until_passed(*marker);
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (event == nullptr) return note(cudaErrorInvalidResourceHandle);
  cuda_on_cpu::run_a_piece();
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
  *ms = std::chrono::duration<float, std::milli>(end->marker->time - begin->marker->time).count();
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
  *graph = new CUgraph_st{std::move(capture->nodes)};
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
  *executable = new CUgraphExec_st{graph->nodes};
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  if (executable == nullptr) return note(cudaErrorInvalidValue);
  return run_or_capture(
      stream, [nodes = executable->nodes](CUstream_st* of_launch) { run_nodes(nodes, of_launch); });
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
