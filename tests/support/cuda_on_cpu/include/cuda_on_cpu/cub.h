// SPDX-License-Identifier: Apache-2.0
// What CUB's device-wide functions share: a first call without storage asks how much is needed,
// the second one works.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstring>

#include "cuda_on_cpu/host.h"

namespace cuda_on_cpu {

/// The storage is overwritten, so that it shows when it is too small or in use elsewhere. As with
/// CUB, both calls need a device, and the second returns the thread's last error, whoever made it.
template <class Work>
cudaError_t run_with_storage(void* storage, size_t& bytes, size_t needed, cudaStream_t stream,
                             const Work& work) {
  int device = 0;
  if (const cudaError_t error = cudaGetDevice(&device)) return error;
  if (storage == nullptr) {
    bytes = needed;
    return cudaSuccess;
  }
  if (bytes < needed) return cudaErrorInvalidValue;
  const cudaError_t error = enqueue(stream, [storage, needed, work] {
    std::memset(storage, 0xFF, needed);
    work();
  });
  return error == cudaSuccess ? cudaPeekAtLastError() : error;
}

/// CUB aligns each of the arrays that it cuts from its storage.
constexpr size_t aligned_bytes(size_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace cuda_on_cpu
