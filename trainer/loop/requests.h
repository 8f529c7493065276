// SPDX-License-Identifier: Apache-2.0
// What the training loop is asked for from outside: to save and stop, by a signal (signals.h), by
// the clock (time_limit.h) or by a file (control_folder.h); to save; to go on to another number of
// steps. Every rank looks at every boundary; the ranks agree before they act, because a signal may
// reach one of them a step before the others, clocks differ, and only rank 0 looks at files.
#pragma once

#include <string>

#include "comm/communicator.h"
#include "trainer/loop/control_folder.h"
#include "trainer/loop/time_limit.h"

namespace stipple::trainer {

/// Why the ranks save and leave the loop; the largest that any of them has counts.
enum class Leave : int64_t { kNot, kToExtend, kByClock, kByFile, kBySignal };

class Requests {
 public:
  /// control: on rank 0.
  Requests(TimeLimit limit, ControlFolder control)
      : limit_(std::move(limit)), control_(std::move(control)) {}

  /// Training begins.
  void begin() { limit_.begin(); }
  /// After `done` of `steps` steps: this rank is asked to leave the loop.
  bool leave(int64_t done, int64_t steps);
  /// This rank is asked for a checkpoint; as leave() saw it.
  bool save() const { return control_.wants_save(); }
  /// A save was made, and took so long; 0: there was nothing to save.
  void saved(double seconds);

  /// What all ranks come to. Collective.
  Leave agreed(comm::Communicator&) const;
  /// The same in words, for the log.
  std::string text(Leave) const;

 private:
  TimeLimit limit_;
  ControlFolder control_;
  bool is_out_of_time_ = false;
};

}  // namespace stipple::trainer
