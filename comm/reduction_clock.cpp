// SPDX-License-Identifier: Apache-2.0
#include "comm/reduction_clock.h"

#include "core/error.h"

namespace stipple::comm {

ReductionClock::ReductionClock(const ReductionMemory& memory, int64_t flights, size_t max_waits)
    : memory_(memory) {
  const size_t waits = memory.is_cuda() ? max_waits : 0;
  const size_t finishes = memory.is_cuda() ? 1 : 0;
  for (int64_t i = 0; i < flights; ++i) {
    flights_.push_back({.waits = {memory.device(), waits}, .finish = {memory.device(), finishes}});
  }
}

void ReductionClock::choose(int64_t flight) {
  STIPPLE_CHECK(flight >= 0 && flight < std::ssize(flights_), "gradient reducer: flight ", flight,
                " of ", flights_.size());
  present_ = static_cast<size_t>(flight);
}

ReductionClock::Flight& ReductionClock::open() {
  Flight& flight = flights_[present_];
  if (flight.has_ended) {
    flight.waits.restart();
    flight.finish.restart();
    flight.waited_s = 0;
    flight.has_ended = false;
  }
  return flight;
}

double ReductionClock::since_begin() const {
  return std::chrono::duration<double>(Clock::now() - begin_).count();
}

void ReductionClock::begin_wait() {
  if (finishing_) return;
  if (memory_.is_cuda()) {
    open().waits.begin(memory_.stream());
  } else {
    begin_ = Clock::now();
  }
}

void ReductionClock::end_wait() {
  if (finishing_) return;
  if (memory_.is_cuda()) {
    open().waits.end(memory_.stream());
  } else {
    open().waited_s += since_begin();
  }
}

void ReductionClock::begin_finish() {
  finishing_ = true;
  if (memory_.is_cuda()) {
    open().finish.begin(memory_.stream());
  } else {
    open();
    begin_ = Clock::now();
  }
}

void ReductionClock::end_finish() {
  finishing_ = false;
  Flight& flight = open();
  if (memory_.is_cuda()) {
    flight.finish.end(memory_.stream());
  } else {
    flight.times = {flight.waited_s + since_begin(), flight.waited_s};
  }
  flight.has_ended = true;
}

ReducerTimes ReductionClock::times(int64_t flight) const {
  const Flight& f = flights_[static_cast<size_t>(flight)];
  if (!memory_.is_cuda()) return f.times;
  const double waited_s = f.waits.seconds();
  return {waited_s + f.finish.seconds(), waited_s};
}

}  // namespace stipple::comm
