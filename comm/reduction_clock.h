// SPDX-License-Identifier: Apache-2.0
// Measures what communication costs beyond backward. On the CPU by the host's clock; on CUDA by
// events in the stream of the computation, which are read when the caller has waited for the step's
// end. Every flight has its own: a step may be enqueued, or its graph launched again, before the
// times of the step before are read.
#pragma once

#include <chrono>
#include <vector>

#include "comm/reduction_memory.h"
#include "core/section_timer.h"

namespace stipple::comm {

class ReductionClock {
 public:
  /// max_waits: of one step's backward.
  ReductionClock(const ReductionMemory&, int64_t flights, size_t max_waits);

  /// The next step is measured in this flight.
  void choose(int64_t flight);
  /// Around what waits for other ranks during backward; calls during finish() change nothing.
  void begin_wait();
  void end_wait();
  /// Around finish().
  void begin_finish();
  void end_finish();

  ReducerTimes times(int64_t flight) const;

 private:
  using Clock = std::chrono::steady_clock;

  struct Flight {
    SectionTimer waits;
    SectionTimer finish;
    double waited_s = 0;  ///< CPU only, as are the times
    ReducerTimes times = {};
    bool has_ended = false;
  };

  /// The present flight, emptied of the step before.
  Flight& open();
  double since_begin() const;

  const ReductionMemory& memory_;
  std::vector<Flight> flights_;
  size_t present_ = 0;
  bool finishing_ = false;
  Clock::time_point begin_;
};

}  // namespace stipple::comm
