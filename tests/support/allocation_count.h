// SPDX-License-Identifier: Apache-2.0
// Counts calls of operator new in the whole process; in sanitized builds, which bring their own
// operators to notice a new that meets a free, calls of malloc, too.
#pragma once

#include <atomic>
#include <cstdint>

namespace stipple::test {

extern std::atomic<int64_t> allocations;

}  // namespace stipple::test
