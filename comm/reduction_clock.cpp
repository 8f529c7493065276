// SPDX-License-Identifier: Apache-2.0
#include "comm/reduction_clock.h"

#include "core/cuda/runtime.h"

namespace stipple::comm {

ReductionClock::ReductionClock(const ReductionMemory& memory, size_t max_waits) : memory_(memory) {
  if (!memory.is_cuda()) return;
  cuda::use_device(memory.device().index);
  for (Step& step : steps_) {
    for (size_t i = 0; i < 2 * max_waits; ++i) step.waits.emplace_back(memory.device());
    for (size_t i = 0; i < 2; ++i) step.finish.emplace_back(memory.device());
  }
}

bool ReductionClock::is_capturing() const { return cuda::is_capturing(memory_.stream().native()); }

void ReductionClock::begin_wait() {
  if (finishing_) return;
  if (!memory_.is_cuda()) {
    begin_ = Clock::now();
  } else if (!is_capturing()) {
    memory_.stream().record(step().waits[step().used++]);
  }
}

void ReductionClock::end_wait() {
  if (finishing_) return;
  if (!memory_.is_cuda()) {
    waited_s_ += std::chrono::duration<double>(Clock::now() - begin_).count();
  } else if (!is_capturing()) {
    memory_.stream().record(step().waits[step().used++]);
  }
}

void ReductionClock::begin_finish() {
  finishing_ = true;
  if (!memory_.is_cuda()) {
    begin_ = Clock::now();
  } else if (!is_capturing()) {
    memory_.stream().record(step().finish[0]);
  }
}

void ReductionClock::end_finish() {
  finishing_ = false;
  if (!memory_.is_cuda()) {
    const double finish_s = std::chrono::duration<double>(Clock::now() - begin_).count();
    times_ = {waited_s_ + finish_s, waited_s_};
    waited_s_ = 0;
  } else if (!is_capturing()) {
    memory_.stream().record(step().finish[1]);
    step().ended = true;
    times();
    // Its events are of three steps ago: a trainer that is one step ahead has waited for their end.
    present_ = (present_ + 1) % steps_.size();
    step().used = 0;
    step().ended = false;
  }
}

ReducerTimes ReductionClock::times() const {
  if (!memory_.is_cuda() || is_capturing()) return times_;
  for (size_t age = steps_.size(); age-- > 0;) {
    const Step& step = steps_[(present_ + steps_.size() - age) % steps_.size()];
    if (step.ended && step.finish[1].has_passed()) times_ = times_of(step);
  }
  return times_;
}

ReducerTimes ReductionClock::times_of(const Step& step) {
  double waited_ms = 0;
  for (size_t i = 0; i + 1 < step.used; i += 2) {
    waited_ms += step.waits[i + 1].ms_since(step.waits[i]);
  }
  const double finish_ms = step.finish[1].ms_since(step.finish[0]);
  return {(waited_ms + finish_ms) * 1e-3, waited_ms * 1e-3};
}

}  // namespace stipple::comm
