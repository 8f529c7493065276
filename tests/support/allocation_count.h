// SPDX-License-Identifier: Apache-2.0
// Counts calls of operator new in the whole process, whose global operators it replaces in programs
// that ask for the count.
#pragma once

#include <atomic>
#include <cstdint>

namespace stipple::test {

extern std::atomic<int64_t> allocations;

}  // namespace stipple::test
