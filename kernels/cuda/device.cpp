// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime_api.h>
#include <cxxabi.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <source_location>

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

}  // namespace

void check_launch(const Stream& stream, const void* kernel, const std::source_location& where) {
  cudaError_t status = cudaGetLastError();
  if (status == cudaSuccess && waits_for_kernels()) {
    status = cudaStreamSynchronize(static_cast<cudaStream_t>(stream.native()));
  }
  STIPPLE_CHECK_AS(CudaError, status == cudaSuccess, kernel_name(kernel), ": ",
                   cudaGetErrorName(status), ", ", cudaGetErrorString(status), " at ",
                   where.file_name(), ":", where.line());
}

void allow_shared_memory(const void* kernel, size_t bytes) {
  CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(bytes)));
}

}  // namespace stipple::kernels::cuda::detail
