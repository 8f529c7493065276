// SPDX-License-Identifier: Apache-2.0
// Runs kernels: one fiber per thread, blocks one after another. Below are the points where a thread
// waits for others.
#pragma once

#include <cuda_runtime.h>

#include <functional>
#include <source_location>
#include <utility>

#include "cuda_on_cpu/host.h"

namespace cuda_on_cpu {

struct LaunchConfig {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;  ///< dynamic
  const void* kernel = nullptr;
  std::source_location where = std::source_location::current();
};

namespace detail {
/// What a GPU would refuse a launch with; cudaGetLastError has it too.
cudaError_t launch_error(const LaunchConfig&);
bool is_capturing(cudaStream_t);
bool is_enqueued(cudaStream_t);  ///< and not run at once
void run_kernel(const LaunchConfig&, void (*call)(const void* body), const void* body);
}  // namespace detail

/// `body` calls the kernel with arguments that it keeps, once for every thread.
template <class Body>
cudaError_t launch(const LaunchConfig& config, cudaStream_t stream, const Body& body) {
  if (const cudaError_t error = detail::launch_error(config)) return error;
  constexpr auto kCall = [](const void* p) { (*static_cast<const Body*>(p))(); };
  if (detail::is_enqueued(stream)) {
    return enqueue(stream, [config, body, kCall] { detail::run_kernel(config, kCall, &body); });
  }
  detail::run_kernel(config, kCall, &body);
  return cudaSuccess;
}

extern int current_lane;  ///< of the running thread in its warp

/// Returns when all live threads of the block have come.
void wait_at_barrier(const std::source_location& where);

/// What a warp does together: called once, by the lane that comes last, with what every lane gave.
using WarpFunction = void (*)(void* const* operands);
/// Returns when all 32 lanes have come and `function` has run. Aborts when they cannot all come.
void warp_wide(WarpFunction function, void* operand, const std::source_location& where);

std::byte* dynamic_shared_memory();

void start_copy(void* to, const void* from, bool is_valid);  ///< 16 bytes
void commit_copies();
void finish_copies(int groups_left);

/// Prints kernel, block and thread with `what`, and aborts.
[[noreturn]] void fail(const char* what);

}  // namespace cuda_on_cpu
