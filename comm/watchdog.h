// SPDX-License-Identifier: Apache-2.0
// A thread that looks after the operations of a transport, because a device that waits for a rank
// which never comes waits for ever. When one takes too long, or the transport reports a fault by
// itself, it says what is known, aborts the transport so that all waiting ends, and makes the
// next check() throw. From then on the process is ending: what does not come to its end in time,
// be it the program, the abort, or memory that is not given back, is ended with the same words.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "comm/deadline.h"
#include "comm/flight_recorder.h"
#include "comm/rank_board.h"

namespace stipple::comm {

struct WatchdogOptions {
  std::string who;  ///< rank, machine, device: how messages begin
  Device device = {};
  double operation_timeout_s = 600;  ///< without any progress
  double poll_s = 0.1;
  double grace_s =
      5;  ///< how long a failure may wait for check(), and then the process for its end
  /// What the transport reports by itself; empty: nothing. Called by the watchdog's thread.
  std::function<std::string()> fault;
  /// Ends all operations under way. It may throw or never return, and may run after the watchdog is
  /// gone.
  std::function<void()> abort;
};

class Watchdog {
 public:
  /// ConfigError when its thread cannot be had.
  Watchdog(FlightRecorder&, RankBoard&, std::shared_ptr<Deadline>, WatchdogOptions);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  bool has_failed() const;
  /// CommError once the transport has failed. Cheap.
  void check();

 private:
  struct Shared;

  /// The diagnosis; empty when the watchdog is to end.
  std::string watch();
  std::string diagnosis();
  std::optional<FlightRecorder::Progress> poll();
  /// Whether the watchdog is to end.
  bool sleep(double seconds);

  FlightRecorder& recorder_;
  RankBoard& board_;
  WatchdogOptions options_;
  std::string unheard_;  ///< what to say should the watchdog's own calls of the device hang
  FlightRecorder::Clock::time_point seen_ = FlightRecorder::Clock::now();  ///< the last poll
  std::shared_ptr<Shared> shared_;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace stipple::comm
