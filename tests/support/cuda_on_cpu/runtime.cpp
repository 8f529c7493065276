// SPDX-License-Identifier: Apache-2.0
// Devices, memory and launch errors. Streams, events and graphs: stream.cpp.
#include "runtime.h"

#include <cuda_runtime_api.h>
#include <nvtx3/nvToolsExt.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "cuda_on_cpu/host.h"
#include "cuda_on_cpu/kernel.h"
#include "deferred.h"
#include "memory.h"

namespace cuda_on_cpu {
namespace {

constexpr int kCudaVersion = 13000;
constexpr int kMultiprocessors =
    4;  // few, so that persistent kernels give every block several turns

thread_local cudaError_t last_error = cudaSuccess;
thread_local int chosen_device = 0;

size_t setting(const char* name, size_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

int device_count() { return static_cast<int>(setting("STIPPLE_CUDA_ON_CPU_DEVICES", 1)); }
size_t device_bytes() { return setting("STIPPLE_CUDA_ON_CPU_MEMORY", size_t{4} << 30); }

void compute_capability(int& major, int& minor) {
  const char* text = std::getenv("STIPPLE_CUDA_ON_CPU_COMPUTE");
  if (text == nullptr || std::sscanf(text, "%d.%d", &major, &minor) != 2) {
    major = 9;
    minor = 0;
  }
}

bool is_device(int device) { return device >= 0 && device < device_count(); }

/// What kernels may take of shared memory, where it is more than the default.
class SharedLimits {
 public:
  void set(const void* kernel, size_t bytes) {
    const std::lock_guard lock(mutex_);
    limits_[kernel] = bytes;
  }
  size_t get(const void* kernel) {
    const std::lock_guard lock(mutex_);
    const auto found = limits_.find(kernel);
    return found == limits_.end() ? kDefaultSharedBytes : found->second;
  }

 private:
  std::mutex mutex_;
  std::map<const void*, size_t> limits_;
};

SharedLimits& shared_limits() {
  static SharedLimits limits;
  return limits;
}

/// Host memory of cudaMallocHost.
class PinnedMemory {
 public:
  void add(const void* p, size_t bytes) {
    const std::lock_guard lock(mutex_);
    bytes_[static_cast<const std::byte*>(p)] = bytes;
  }
  void remove(const void* p) {
    const std::lock_guard lock(mutex_);
    bytes_.erase(static_cast<const std::byte*>(p));
  }
  bool has(const void* p) {
    const auto* at = static_cast<const std::byte*>(p);
    const std::lock_guard lock(mutex_);
    const auto after = bytes_.upper_bound(at);
    if (after == bytes_.begin()) return false;
    const auto& [first, bytes] = *std::prev(after);
    return at < first + bytes;
  }

 private:
  std::mutex mutex_;
  std::map<const std::byte*, size_t> bytes_;
};

PinnedMemory& pinned_memory() {
  static auto& memory = *new PinnedMemory;  // freed by statics, too
  return memory;
}

bool is_pageable(const void* p) { return !is_device_memory(p) && !pinned_memory().has(p); }

}  // namespace

cudaError_t note(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

int current_device() { return chosen_device; }

cudaError_t detail::launch_error(const LaunchConfig& config) {
  const uint64_t threads = uint64_t{config.block.x} * config.block.y * config.block.z;
  const uint64_t blocks = uint64_t{config.grid.x} * config.grid.y * config.grid.z;
  constexpr unsigned kMaxGridYZ = 65535;
  constexpr unsigned kMaxBlockZ = 64;
  cudaError_t error = cudaSuccess;
  if (threads == 0 || threads > kMaxBlockThreads || config.block.z > kMaxBlockZ || blocks == 0 ||
      config.grid.x > 0x7FFFFFFFu || config.grid.y > kMaxGridYZ || config.grid.z > kMaxGridYZ) {
    error = cudaErrorInvalidConfiguration;
  } else if (config.shared_bytes > shared_limits().get(config.kernel)) {
    error = cudaErrorInvalidValue;
  }
  return note(error);
}

}  // namespace cuda_on_cpu

using namespace cuda_on_cpu;

// --- errors

namespace {
struct ErrorText {
  cudaError_t code;
  const char* name;
  const char* text;
};
constexpr ErrorText kErrors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection",
     "invalid copy direction for memcpy"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
     "an illegal memory access was encountered"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureMerge, "cudaErrorStreamCaptureMerge",
     "operation would result in a merge of separate capture sequences"},
    {cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched",
     "capture was not ended in the same stream as it began"},
    {cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined",
     "capturing stream has unjoined work"},
    {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation",
     "dependency created on uncaptured work in another stream"},
    {cudaErrorStreamCaptureImplicit, "cudaErrorStreamCaptureImplicit",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {cudaErrorCapturedEvent, "cudaErrorCapturedEvent",
     "operation not permitted on an event last recorded in a capturing stream"},
    {cudaErrorStreamCaptureWrongThread, "cudaErrorStreamCaptureWrongThread",
     "attempt to terminate a thread-local capture sequence from another thread"},
};
const ErrorText* find_error(cudaError_t code) {
  for (const ErrorText& error : kErrors) {
    if (error.code == code) return &error;
  }
  return nullptr;
}
}  // namespace

const char* cudaGetErrorName(cudaError_t code) {
  const ErrorText* error = find_error(code);
  return error == nullptr ? "unrecognized error code" : error->name;
}
const char* cudaGetErrorString(cudaError_t code) {
  const ErrorText* error = find_error(code);
  return error == nullptr ? "unrecognized error code" : error->text;
}
cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError() { return last_error; }

// --- devices

cudaError_t cudaDriverGetVersion(int* version) {
  *version = kCudaVersion;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = kCudaVersion;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = device_count();
  return note(*count > 0 ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaGetDevice(int* device) {
  *device = chosen_device;
  return note(device_count() > 0 ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device) {
  if (device_count() == 0) return note(cudaErrorNoDevice);
  if (!is_device(device)) return note(cudaErrorInvalidDevice);
  chosen_device = device;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (!is_device(device)) return note(cudaErrorInvalidDevice);
  *properties = {};
  std::snprintf(properties->name, sizeof(properties->name), "CUDA on CPU %d", device);
  properties->totalGlobalMem = device_bytes();
  properties->sharedMemPerBlock = kDefaultSharedBytes;
  properties->sharedMemPerBlockOptin = kMaxSharedBytes;
  properties->sharedMemPerMultiprocessor = kMaxSharedBytes + 1024;
  properties->regsPerBlock = 65536;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = kMaxBlockThreads;
  properties->maxThreadsPerMultiProcessor = 2048;
  compute_capability(properties->major, properties->minor);
  properties->multiProcessorCount = kMultiprocessors;
  properties->l2CacheSize = 1 << 20;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties;
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, device)) return error;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = properties.maxThreadsPerBlock;
      return cudaSuccess;
    case cudaDevAttrWarpSize:
      *value = properties.warpSize;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(properties.sharedMemPerMultiprocessor);
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(properties.sharedMemPerBlockOptin);
      return cudaSuccess;
  }
  return note(cudaErrorInvalidValue);
}

cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
  if (!is_device(device)) return note(cudaErrorInvalidDevice);
  std::snprintf(text, static_cast<size_t>(length), "0000:%02x:00.0", device + 1);
  return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  if (!is_device(device) || !is_device(peer)) return note(cudaErrorInvalidDevice);
  *can = device == peer ? 0 : 1;
  return cudaSuccess;
}

// --- memory

cudaError_t cudaMalloc(void** p, size_t bytes) {
  if (device_count() == 0) return note(cudaErrorNoDevice);
  if (is_forbidden_by_capture()) return note(cudaErrorStreamCaptureUnsupported);
  *p = nullptr;
  if (bytes == 0) return cudaSuccess;
  *p = allocate_device_memory(chosen_device, bytes, device_bytes());
  return note(*p == nullptr ? cudaErrorMemoryAllocation : cudaSuccess);
}

cudaError_t cudaFree(void* p) {
  if (p == nullptr) return cudaSuccess;
  if (is_forbidden_by_capture()) return note(cudaErrorStreamCaptureUnsupported);
  run_everything();
  return note(release_device_memory(p) ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaMallocHost(void** p, size_t bytes) {
  if (device_count() == 0) return note(cudaErrorNoDevice);
  if (is_forbidden_by_capture()) return note(cudaErrorStreamCaptureUnsupported);
  constexpr size_t kAlignment = 128;
  *p = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  if (*p != nullptr) pinned_memory().add(*p, bytes);
  return note(*p == nullptr ? cudaErrorMemoryAllocation : cudaSuccess);
}

cudaError_t cudaFreeHost(void* p) {
  if (is_forbidden_by_capture()) return note(cudaErrorStreamCaptureUnsupported);
  run_everything();
  pinned_memory().remove(p);
  std::free(p);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  if (device_count() == 0) return note(cudaErrorNoDevice);
  const size_t used = used_device_memory(chosen_device);
  *total_bytes = device_bytes();
  *free_bytes = *total_bytes > used ? *total_bytes - used : 0;
  return cudaSuccess;
}

namespace {
bool fits(cudaMemcpyKind kind, const void* to, const void* from) {
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  return kind == cudaMemcpyDefault ||
         (is_device_memory(to) == to_device && is_device_memory(from) == from_device);
}
}  // namespace

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  if (!fits(kind, to, from)) return note(cudaErrorInvalidMemcpyDirection);
  if (bytes == 0) return cudaSuccess;
  if (!are_streams_deferred() || detail::is_capturing(stream)) {
    return enqueue(stream, [=] { std::memmove(to, from, bytes); });
  }
  // From pageable memory the copy is staged at once; to it the call returns when it is done.
  if (is_pageable(from)) {
    const auto* bytes_of = static_cast<const std::byte*>(from);
    return enqueue(stream, [to, staged = std::vector<std::byte>(bytes_of, bytes_of + bytes)] {
      std::memcpy(to, staged.data(), staged.size());
    });
  }
  const cudaError_t error = enqueue(stream, [=] { std::memmove(to, from, bytes); });
  return error != cudaSuccess || !is_pageable(to) ? error : cudaStreamSynchronize(stream);
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  if (!is_device_memory(to)) return note(cudaErrorInvalidValue);
  return enqueue(stream, [=] {
    if (value == 0) {
      zero_device_memory(to, bytes);
    } else {
      std::memset(to, value, bytes);
    }
  });
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (is_forbidden_by_capture()) return note(cudaErrorStreamCaptureImplicit);
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  return error != cudaSuccess ? error : cudaStreamSynchronize(nullptr);
}

cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  if (is_forbidden_by_capture()) return note(cudaErrorStreamCaptureImplicit);
  return cudaMemsetAsync(to, value, bytes, nullptr);
}

// --- kernels

cudaError_t cudaFuncGetName(const char** name, const void* kernel) {
  *name = kernel_name(kernel);
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
      static_cast<size_t>(value) > kMaxSharedBytes) {
    return note(cudaErrorInvalidValue);
  }
  shared_limits().set(kernel, static_cast<size_t>(value));
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int threads,
                                                          size_t shared_bytes) {
  if (threads <= 0 || threads > kMaxBlockThreads) return note(cudaErrorInvalidValue);
  *blocks = shared_bytes > kMaxSharedBytes ? 0 : 1;  // more would only make emulated grids larger
  return cudaSuccess;
}

// --- ranges for profilers

namespace {
thread_local int range_depth = 0;
}
int nvtxRangePushA(const char*) { return range_depth++; }
int nvtxRangePop() { return range_depth == 0 ? -1 : --range_depth; }
