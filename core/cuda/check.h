// SPDX-License-Identifier: Apache-2.0
// CUDA_CHECK(cudaMalloc(...)): throws CudaError with expression, code, text, file and line. CUDA
// forgets the error: whoever catches it may go on, and nobody later is blamed for it.
#pragma once

#include <cuda_runtime_api.h>

#include "core/error.h"

#define CUDA_CHECK(call)                                                                      \
  do {                                                                                        \
    if (const cudaError_t cuda_status_ = (call); cuda_status_ != cudaSuccess) {               \
      static_cast<void>(cudaGetLastError());                                                  \
      throw ::stipple::CudaError(::stipple::detail::concat(                                   \
          #call ": ", cudaGetErrorName(cuda_status_), ", ", cudaGetErrorString(cuda_status_), \
          " at ", __FILE_NAME__, ":", __LINE__));                                             \
    }                                                                                         \
  } while (false)
