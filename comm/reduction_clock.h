// SPDX-License-Identifier: Apache-2.0
// Measures what communication costs beyond backward. On the CPU by the host's clock; on CUDA by
// events in the stream of the computation, read when they have passed: times() never waits, so it
// tells of the newest step whose end has come.
#pragma once

#include <array>
#include <chrono>
#include <vector>

#include "comm/reduction_memory.h"

namespace stipple::comm {

class ReductionClock {
 public:
  /// max_waits: of one step's backward.
  ReductionClock(const ReductionMemory&, size_t max_waits);

  /// Around what waits for other ranks during backward; calls during finish() change nothing.
  void begin_wait();
  void end_wait();
  /// Around finish(). The end is the end of the step.
  void begin_finish();
  void end_finish();

  ReducerTimes times() const;

 private:
  using Clock = std::chrono::steady_clock;

  /// Events of one step on CUDA.
  struct Step {
    std::vector<Event> waits;   ///< begin, end, begin, end...
    size_t used = 0;            ///< of waits
    std::vector<Event> finish;  ///< begin, end
    bool ended = false;
  };

  Step& step() { return steps_[present_]; }
  /// Nothing can be measured where work is only captured.
  bool is_capturing() const;
  static ReducerTimes times_of(const Step&);

  const ReductionMemory& memory_;
  bool finishing_ = false;
  Clock::time_point begin_;
  double waited_s_ = 0;
  mutable ReducerTimes times_;
  std::array<Step, 3> steps_;  // CUDA only; the present one and those before
  size_t present_ = 0;
};

}  // namespace stipple::comm
