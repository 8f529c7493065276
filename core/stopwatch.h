// SPDX-License-Identifier: Apache-2.0
// Time as the host sees it; core/section_timer.h has a stream's.
#pragma once

#include <chrono>

namespace stipple {

/// Seconds since construction or the last lap().
class Stopwatch {
 public:
  double lap() {
    const Clock::time_point now = Clock::now();
    const double seconds = std::chrono::duration<double>(now - last_).count();
    last_ = now;
    return seconds;
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point last_ = Clock::now();
};

}  // namespace stipple
