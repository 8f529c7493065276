// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/requests.h"

#include "trainer/loop/signals.h"

namespace stipple::trainer {

bool Requests::stop() {
  is_out_of_time_ = limit_.is_reached();  // asked every time: it measures how often
  return is_out_of_time_ || stop_requested();
}

std::string Requests::reason(comm::Communicator& communicator) const {
  if (communicator.any(stop_requested())) return "as a signal asked";
  return is_out_of_time_ ? "before the job ends: " + limit_.text()
                         : "before the job ends, by the clock of another rank";
}

}  // namespace stipple::trainer
