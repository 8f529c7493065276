// SPDX-License-Identifier: Apache-2.0
// How much memory can still be had: a plan that is larger would end in the allocator, or be ended
// by the kernel in the middle of the work.
#pragma once

#include <cstddef>
#include <limits>
#include <string>

namespace stipple::cpu {

inline constexpr size_t kUnlimited = std::numeric_limits<size_t>::max();

/// Bytes that the processes of this machine can still take together: what the kernel calls
/// available, and no more than the control groups of this process leave (containers, Slurm;
/// versions 1 and 2). kUnlimited where nothing can be read. `root`, for tests: where /proc and /sys
/// are.
size_t available_memory(const std::string& root = "");

/// Bytes that this process alone may still take of its address space (ulimit -v).
size_t available_address_space();

}  // namespace stipple::cpu
