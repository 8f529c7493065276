// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime_api.h>
#include <cxxabi.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <source_location>
#include <utility>

#include "core/cuda/check.h"
#include "core/stream.h"

namespace stipple::kernels::cuda::detail {
namespace {

std::string kernel_name(const void* kernel) {
  const char* mangled = nullptr;
  if (cudaFuncGetName(&mangled, kernel) != cudaSuccess || mangled == nullptr) return "a kernel";
  const std::unique_ptr<char, void (*)(void*)> name(
      abi::__cxa_demangle(mangled, nullptr, nullptr, nullptr), std::free);
  return name == nullptr ? mangled : name.get();
}

bool waits_for_kernels() {
  static const bool waits = [] {
    const char* value = std::getenv("STIPPLE_SYNC_LAUNCH");
    return value != nullptr && std::strcmp(value, "1") == 0;
  }();
  return waits;
}

bool is_captured(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  CUDA_CHECK(cudaStreamIsCapturing(stream, &status));
  return status != cudaStreamCaptureStatusNone;
}

}  // namespace

void check_launch(const Stream& stream, const void* kernel, cudaError_t status,
                  const std::source_location& where) {
  const auto native = static_cast<cudaStream_t>(stream.native());
  if (status == cudaSuccess && waits_for_kernels() && !is_captured(native)) {
    status = cudaStreamSynchronize(native);
  }
  if (status == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());
  throw CudaError(stipple::detail::concat(kernel_name(kernel), ": ", cudaGetErrorName(status), ", ",
                                          cudaGetErrorString(status), " at ", where.file_name(),
                                          ":", where.line()));
}

// The limit belongs to kernel and device; a smaller one would take from an earlier launch's.
void allow_shared_memory(const Stream& stream, const void* kernel, size_t bytes) {
  static std::mutex mutex;
  static std::map<std::pair<int, const void*>, size_t> limits;
  const std::scoped_lock lock(mutex);
  size_t& limit = limits[{stream.device().index, kernel}];
  if (bytes <= limit) return;
  CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(bytes)));
  limit = bytes;
}

}  // namespace stipple::kernels::cuda::detail
