// SPDX-License-Identifier: Apache-2.0
// What the training loop is asked for from outside: to save and stop, by a signal (signals.h) or by
// the clock (time_limit.h). Every rank looks at every boundary; the ranks agree before they act,
// because a signal may reach one of them a step before the others, and clocks differ.
#pragma once

#include <string>

#include "comm/communicator.h"
#include "trainer/loop/time_limit.h"

namespace stipple::trainer {

class Requests {
 public:
  explicit Requests(TimeLimit limit) : limit_(std::move(limit)) {}

  /// Training begins.
  void begin() { limit_.begin(); }
  /// This rank is asked to stop.
  bool stop();
  /// A save was made, and took so long.
  void saved(double seconds) { limit_.saved(seconds); }
  const TimeLimit& limit() const { return limit_; }

  /// Why the ranks stop, for the log. Collective.
  std::string reason(comm::Communicator&) const;

 private:
  TimeLimit limit_;
  bool is_out_of_time_ = false;
};

}  // namespace stipple::trainer
