// SPDX-License-Identifier: Apache-2.0
// The emulation seen from the host: for stand-ins of CUDA's libraries and for tests.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>

namespace cuda_on_cpu {

/// While one is alive, host code may touch device memory. Kernels, copies and enqueued work have
/// one of their own.
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};

/// Runs `work`, with access to device memory, at its place in the stream: at once, or when the
/// graph that is being captured from the stream is launched. So `work` keeps copies of all it needs
/// from the host.
cudaError_t enqueue(cudaStream_t stream, std::function<void()> work);

bool is_device_memory(const void* p);

/// Another seed is another order of the threads of a block, and of the blocks.
/// STIPPLE_CUDA_ON_CPU_SEED sets the first.
void set_seed(uint64_t seed);

/// Whether work waits in its stream until the host waits for it, and then runs in any order that
/// streams and events allow. STIPPLE_CUDA_ON_CPU_STREAMS=deferred sets it at first. Runs what waits.
void defer_streams(bool);

/// What cuBLASLt is asked for an algorithm for: a result of `rows` x `columns`, as it counts them.
struct ProductAsked {
  uint64_t rows, columns;
  bool has_bias;
  uint32_t reductions;  ///< schemes that may be used
};
/// cuBLASLt then knows no algorithm where `is_refused` says so; null: it knows all.
void refuse_products(std::function<bool(const ProductAsked&)> is_refused);

}  // namespace cuda_on_cpu
