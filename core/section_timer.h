// SPDX-License-Identifier: Apache-2.0
// How long a stream spends on sections of its work. The same in a capture: then every replay of the
// graph measures anew, and overwrites what was measured before.
//
//   timer.begin(stream);  kernels...;  timer.end(stream);     // any number of times
//   ...the host has waited for a later point of the stream...
//   double s = timer.seconds();
//   timer.restart();
#pragma once

#include <cstddef>
#include <vector>

#include "core/stream.h"

namespace stipple {

class SectionTimer {
 public:
  /// All events are made here, none later.
  SectionTimer(Device, size_t max_sections);

  void begin(const Stream&);
  void end(const Stream&);
  /// The next section is the first again.
  void restart() { used_ = 0; }

  double seconds() const;  ///< of all sections since restart()
  /// Of the last section; there is one.
  const Event& last_end() const { return events_[used_ - 1]; }

 private:
  void record(const Stream&, bool is_end);

  std::vector<Event> events_;  ///< begin, end, begin, end...
  size_t used_ = 0;
};

}  // namespace stipple
