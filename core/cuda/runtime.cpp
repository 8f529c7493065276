// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/runtime.h"

#include <cuda_runtime_api.h>
#include <nvtx3/nvToolsExt.h>

#include <atomic>
#include <cstdlib>

#include "core/cuda/check.h"
#include "core/log.h"

namespace stipple::cuda {
namespace {

cudaStream_t as_stream(void* stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t as_event(void* event) { return static_cast<cudaEvent_t>(event); }

/// For destructors: they cannot throw. Once only: after a fault every call fails alike, and the
/// fault itself is on its way to the user.
void log_failure(cudaError_t status, const char* what) noexcept {
  static std::atomic_flag was_told;
  if (status == cudaSuccess) return;
  cudaGetLastError();
  if (was_told.test_and_set()) return;
  log::warn(std::string(what) + ": " + cudaGetErrorString(status));
}

/// Where the host waits, it learns of faults of kernels started long before.
void check_wait(cudaError_t status) {
  if (status == cudaSuccess) return;
  cudaGetLastError();
  throw CudaError(detail::concat("a kernel or copy failed: ", cudaGetErrorName(status), ", ",
                                 cudaGetErrorString(status),
                                 "; STIPPLE_SYNC_LAUNCH=1 in the environment tells which kernel"));
}

/// Makes a device current for a scope.
class DeviceScope {
 public:
  explicit DeviceScope(int device) {
    CUDA_CHECK(cudaGetDevice(&before_));
    CUDA_CHECK(cudaSetDevice(device));
  }
  ~DeviceScope() { log_failure(cudaSetDevice(before_), "cudaSetDevice"); }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int before_ = 0;
};

}  // namespace

bool is_built() { return true; }

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();  // not ours to report: there just is no device
    return 0;
  }
  return count;
}

std::string why_no_device() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return {};
  cudaGetLastError();
  if (driver_version() == 0) return "no NVIDIA driver is installed on this machine";
  if (status == cudaErrorInsufficientDriver) {
    return detail::concat("the NVIDIA driver serves CUDA ", driver_version() / 1000, ".",
                          driver_version() % 1000 / 10, ", this program needs ",
                          runtime_version() / 1000, ".", runtime_version() % 1000 / 10);
  }
  if (status == cudaErrorNoDevice || status == cudaSuccess) {
    return "the NVIDIA driver shows no GPU (see CUDA_VISIBLE_DEVICES)";
  }
  return cudaGetErrorString(status);
}

int driver_version() {
  int version = 0;
  CUDA_CHECK(cudaDriverGetVersion(&version));
  return version;
}

int runtime_version() {
  int version = 0;
  CUDA_CHECK(cudaRuntimeGetVersion(&version));
  return version;
}

DeviceInfo device_info(int device) {
  const DeviceScope scope(device);
  cudaDeviceProp properties{};
  CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
  DeviceInfo info;
  info.name = properties.name;
  char bus_id[32] = {};
  CUDA_CHECK(cudaDeviceGetPCIBusId(bus_id, sizeof(bus_id), device));
  info.bus_id = bus_id;
  info.compute_major = properties.major;
  info.compute_minor = properties.minor;
  info.multiprocessors = properties.multiProcessorCount;
  info.shared_bytes_per_block = properties.sharedMemPerBlockOptin;
  CUDA_CHECK(cudaMemGetInfo(&info.free_bytes, &info.total_bytes));
  return info;
}

int multiprocessors(int device) {
  static const int asked = [] {
    const char* text = std::getenv("STIPPLE_MULTIPROCESSORS");
    return text == nullptr ? 0 : std::atoi(text);
  }();
  if (asked > 0) return asked;
  int count = 0;
  CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

int64_t shared_bytes_per_multiprocessor(int device) {
  int bytes = 0;
  CUDA_CHECK(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device));
  return bytes;
}

bool can_access_peer(int device, int peer) {
  int can = 0;
  CUDA_CHECK(cudaDeviceCanAccessPeer(&can, device, peer));
  return can != 0;
}

void use_device(int device) { CUDA_CHECK(cudaSetDevice(device)); }

void* allocate(int device, size_t bytes) {
  use_device(device);
  void* p = nullptr;
  if (const cudaError_t status = cudaMalloc(&p, bytes); status != cudaSuccess) {
    cudaGetLastError();
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    const std::string what =
        detail::concat("out of memory on GPU ", device, ": ", bytes, " bytes asked, ", free, " of ",
                       total, " free (", cudaGetErrorString(status), ")");
    if (status == cudaErrorMemoryAllocation) throw MemoryError(what);
    throw CudaError(what);
  }
  CUDA_CHECK(cudaMemset(p, 0, bytes));
  CUDA_CHECK(cudaDeviceSynchronize());  // our streams do not wait for the default one
  return p;
}

void release(void* p) noexcept { log_failure(cudaFree(p), "cudaFree"); }

void* allocate_pinned(size_t bytes) {
  void* p = nullptr;
  CUDA_CHECK(cudaMallocHost(&p, bytes));
  __builtin_memset(p, 0, bytes);
  return p;
}

void release_pinned(void* p) noexcept { log_failure(cudaFreeHost(p), "cudaFreeHost"); }

void* create_stream(int device) {
  use_device(device);
  cudaStream_t stream = nullptr;
  CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return stream;
}

void destroy_stream(void* stream) noexcept {
  log_failure(cudaStreamDestroy(as_stream(stream)), "cudaStreamDestroy");
}

void synchronize(void* stream) { check_wait(cudaStreamSynchronize(as_stream(stream))); }

void* create_event(bool timed) {
  cudaEvent_t event = nullptr;
  CUDA_CHECK(cudaEventCreateWithFlags(&event, timed ? cudaEventDefault : cudaEventDisableTiming));
  return event;
}

void destroy_event(void* event) noexcept {
  log_failure(cudaEventDestroy(as_event(event)), "cudaEventDestroy");
}

void record(void* event, void* stream, bool is_timed) {
  // Captured without the flag, an event is an edge between nodes and never gets a time; outside of
  // a capture the flag is an error.
  const unsigned flags =
      is_timed && is_capturing(stream) ? cudaEventRecordExternal : cudaEventRecordDefault;
  CUDA_CHECK(cudaEventRecordWithFlags(as_event(event), as_stream(stream), flags));
}

void wait(void* stream, void* event) {
  CUDA_CHECK(cudaStreamWaitEvent(as_stream(stream), as_event(event), 0));
}

bool has_passed(void* event) {
  const cudaError_t status = cudaEventQuery(as_event(event));
  if (status == cudaErrorNotReady) {
    cudaGetLastError();  // it would be blamed on the next launch
    return false;
  }
  CUDA_CHECK(status);
  return true;
}

void synchronize_event(void* event) { check_wait(cudaEventSynchronize(as_event(event))); }

double elapsed_ms(void* begin, void* end) {
  float ms = 0;
  CUDA_CHECK(cudaEventElapsedTime(&ms, as_event(begin), as_event(end)));
  return static_cast<double>(ms);
}

void copy(void* to, const void* from, size_t bytes, void* stream) {
  CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, as_stream(stream)));
}

void fill_zero(void* to, size_t bytes, void* stream) {
  CUDA_CHECK(cudaMemsetAsync(to, 0, bytes, as_stream(stream)));
}

void begin_capture(void* stream) {
  CUDA_CHECK(cudaStreamBeginCapture(as_stream(stream), cudaStreamCaptureModeThreadLocal));
}

void* end_capture(void* stream) {
  cudaGraph_t graph = nullptr;
  CUDA_CHECK(cudaStreamEndCapture(as_stream(stream), &graph));
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
  log_failure(cudaGraphDestroy(graph), "cudaGraphDestroy");
  CUDA_CHECK(status);
  return executable;
}

bool is_capturing(void* stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  CUDA_CHECK(cudaStreamIsCapturing(as_stream(stream), &status));
  return status != cudaStreamCaptureStatusNone;
}

void cancel_capture(void* stream) noexcept {
  cudaGraph_t graph = nullptr;
  cudaStreamEndCapture(as_stream(stream), &graph);
  if (graph != nullptr) cudaGraphDestroy(graph);
  cudaGetLastError();
}

void launch_graph(void* graph, void* stream) {
  CUDA_CHECK(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), as_stream(stream)));
}

void destroy_graph(void* graph) noexcept {
  log_failure(cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)), "cudaGraphExecDestroy");
}

void push_range(const char* name) { nvtxRangePushA(name); }
void pop_range() { nvtxRangePop(); }

}  // namespace stipple::cuda
