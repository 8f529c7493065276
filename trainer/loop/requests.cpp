// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/requests.h"

#include <fmt/format.h>

#include "trainer/loop/signals.h"

namespace stipple::trainer {

bool Requests::leave(int64_t done, int64_t steps) {
  is_out_of_time_ = limit_.is_reached();  // asked every time: it measures how often
  control_.look(done, steps);
  return is_out_of_time_ || stop_requested() || control_.wants_stop() || control_.wants_steps();
}

void Requests::saved(double seconds) {
  if (seconds > 0) limit_.saved(seconds);
  control_.saved();
}

Leave Requests::agreed(comm::Communicator& communicator) const {
  Leave mine = Leave::kNot;
  if (control_.wants_steps()) mine = Leave::kToExtend;
  if (is_out_of_time_) mine = Leave::kByClock;
  if (control_.wants_stop()) mine = Leave::kByFile;
  if (stop_requested()) mine = Leave::kBySignal;
  return static_cast<Leave>(
      communicator.all_reduce(static_cast<int64_t>(mine), comm::Reduction::kMax));
}

std::string Requests::text(Leave why) const {
  switch (why) {
    case Leave::kBySignal:
      return "as a signal asked";
    case Leave::kByFile:
      return "as " + control_.stop_file() + " asks";
    case Leave::kByClock:
      return is_out_of_time_ ? "before the job ends: " + limit_.text()
                             : "before the job ends, by the clock of another rank";
    case Leave::kToExtend:
      return fmt::format("to go on to step {}, as {} asks", control_.wants_steps().value_or(0),
                         control_.extend_file());
    case Leave::kNot:
      break;
  }
  return "for no reason";
}

}  // namespace stipple::trainer
