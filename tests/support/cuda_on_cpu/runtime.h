// SPDX-License-Identifier: Apache-2.0
// What the parts of the emulation need of each other: limits, last errors, streams under capture.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>

namespace cuda_on_cpu {

inline constexpr size_t kMaxSharedBytes = 227 << 10;  ///< dynamic, with opt-in
inline constexpr size_t kDefaultSharedBytes = 48 << 10;
inline constexpr int kMaxBlockThreads = 1024;

/// Keeps the error for cudaGetLastError and returns it.
cudaError_t note(cudaError_t);

int current_device();
/// This thread may not do what could reach into a capture: those end as invalid.
bool is_forbidden_by_capture();

const char* kernel_name(const void* kernel);  ///< mangled
std::string readable_kernel_name(const void* kernel);

}  // namespace cuda_on_cpu
