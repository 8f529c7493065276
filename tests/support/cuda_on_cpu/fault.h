// SPDX-License-Identifier: Apache-2.0
// Turns a memory fault that the emulation provoked into one clear line; others go where they went
// before.
#pragma once

#include <cstddef>

namespace cuda_on_cpu {

/// Writes what `address` is, and returns whether it knows. Called inside a signal handler.
using Explanation = bool (*)(const void* address, char* text, size_t size);
void explain_faults_with(Explanation);

/// Writes where the running kernel stands; nothing where none runs.
void describe_running_thread(char* text, size_t size);

}  // namespace cuda_on_cpu
