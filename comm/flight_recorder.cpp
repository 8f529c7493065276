// SPDX-License-Identifier: Apache-2.0
#include "comm/flight_recorder.h"

#include <algorithm>

#include "core/cuda/runtime.h"
#include "core/error.h"

namespace stipple::comm {

FlightRecorder::FlightRecorder(const Stream& stream, size_t capacity) : stream_(stream) {
  for (size_t i = 0; i < capacity; ++i) slots_.emplace_back(stream.device());
}

bool FlightRecorder::is_full() const {
  const Slot& next = slot(position_.begun + 1);
  return next.sequence > position_.finished;
}

/// Every open operation keeps its number, so it moves to where that number belongs now.
void FlightRecorder::grow() {
  std::vector<Slot> old = std::move(slots_);
  slots_.clear();
  for (size_t i = 0; i < 2 * old.size(); ++i) slots_.emplace_back(stream_.device());
  for (Slot& s : old) {
    if (s.sequence > position_.finished || !s.waited) slot(s.sequence) = std::move(s);
  }
}

int64_t FlightRecorder::begin(const char* kind, int64_t bytes, FunctionRef<void()> idle) {
  const bool captured =
      stream_.device().type == DeviceType::kCuda && cuda::is_capturing(stream_.native());
  std::unique_lock lock(mutex_);
  while (true) {
    // A thread that captures may not ask for events.
    if (!slot(position_.begun + 1).waited || (captured && is_full())) grow();
    if (!is_full()) break;
    look();
    if (!is_full()) break;
    lock.unlock();
    idle();
    lock.lock();
  }
  const int64_t sequence = ++position_.begun;
  Slot& s = slot(sequence);
  s.sequence = sequence;
  s.kind = kind;
  s.bytes = bytes;
  s.begun = Clock::now();
  s.enqueued = false;
  s.waited = false;
  s.captured = captured;
  stream_.record(s.reached);
  return sequence;
}

Pending FlightRecorder::end(int64_t sequence) {
  const std::lock_guard lock(mutex_);
  Slot& s = slot(sequence);
  stream_.record(s.finished);
  s.enqueued = true;
  return {sequence};
}

void FlightRecorder::wait(const Stream& stream, Pending pending, const std::string& who) {
  const std::lock_guard lock(mutex_);
  const bool known = pending.id > 0 && pending.id <= position_.begun;
  Slot& s = slot(known ? pending.id : 0);
  STIPPLE_CHECK_AS(CommError, known && s.sequence == pending.id && s.enqueued && !s.waited, who,
                   ": wait for operation #", pending.id,
                   ", which is not pending; each is waited for once");
  stream.wait(s.finished);
  s.waited = true;
}

void FlightRecorder::look() {
  const Position before = position_;
  while (position_.reached < position_.begun) {
    const Slot& next = slot(position_.reached + 1);
    if (!next.captured && !next.reached.has_passed()) break;
    ++position_.reached;
  }
  while (position_.finished < position_.reached) {
    const Slot& next = slot(position_.finished + 1);
    if (!next.enqueued || (!next.captured && !next.finished.has_passed())) break;
    ++position_.finished;
  }
  if (!(position_ == before)) last_progress_ = Clock::now();
}

std::optional<FlightRecorder::Progress> FlightRecorder::poll() {
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock) return std::nullopt;
  look();
  return Progress{position_, oldest_open()};
}

FlightRecorder::Open FlightRecorder::oldest_open() const {
  if (position_.finished == position_.begun) return {};
  const Slot& s = slot(position_.finished + 1);
  const Clock::time_point since = std::max(s.begun, last_progress_);
  return {s.kind, s.sequence, s.bytes, std::chrono::duration<double>(Clock::now() - since).count()};
}

}  // namespace stipple::comm
