// SPDX-License-Identifier: Apache-2.0
// Counts calls of operator new in the whole process, and the bytes that they have given, whose global
// operators it replaces in programs that ask for the count.
#pragma once

#include <atomic>
#include <cstdint>

namespace stipple::test {

extern std::atomic<int64_t> allocations;
extern std::atomic<int64_t> live_bytes;
extern std::atomic<int64_t> most_live_bytes;  ///< since somebody set it

}  // namespace stipple::test
