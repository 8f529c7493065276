// SPDX-License-Identifier: Apache-2.0
// Device memory: pieces of one reserved range of addresses, apart from each other by pages that
// nobody may touch. A piece ends where such a page begins, to within 128 bytes. All is closed to
// the host except while DeviceAccess is alive.
#pragma once

#include <cstddef>

namespace cuda_on_cpu {

/// nullptr where the device has no such piece left; 0 bytes are given as 1.
void* allocate_device_memory(int device, size_t bytes, size_t device_bytes);
bool release_device_memory(void* p);  ///< false: not an allocation
size_t used_device_memory(int device);

/// memset to 0 that gives whole pages back to the system, so large buffers cost nothing until they
/// are used.
void zero_device_memory(void* p, size_t bytes);

}  // namespace cuda_on_cpu
