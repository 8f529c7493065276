// SPDX-License-Identifier: Apache-2.0
// A thread that looks after the operations of a transport, because a device that waits for a rank
// which never comes waits for ever. When one takes too long, or the transport reports a fault by
// itself, it says what is known, aborts the transport so that all waiting ends, and makes the
// next check() throw. If no check() comes, it ends the process itself.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "comm/flight_recorder.h"
#include "comm/rank_board.h"

namespace stipple::comm {

struct WatchdogOptions {
  std::string who;  ///< rank, machine, device: how messages begin
  Device device = {};
  double operation_timeout_s = 600;  ///< without any progress
  double poll_s = 0.1;
  double grace_s = 5;  ///< how long a failure may wait for check()
  int exit_code = 1;   ///< if it waits longer
  /// What the transport reports by itself; empty: nothing. Called by the watchdog's thread.
  std::function<std::string()> fault;
  /// Ends all operations under way. It may never return, and may run after the watchdog is gone.
  std::function<void()> abort;
};

class Watchdog {
 public:
  Watchdog(FlightRecorder&, RankBoard&, WatchdogOptions);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  bool has_failed() const { return failed_.load(std::memory_order_acquire); }
  /// CommError once the transport has failed. Cheap.
  void check();

 private:
  void run();
  /// Empty while all is well.
  std::string diagnosis();
  void fail(const std::string& text);
  /// Whether the watchdog is to end.
  bool sleep(double seconds);

  FlightRecorder& recorder_;
  RankBoard& board_;
  WatchdogOptions options_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  bool told_ = false;  // check() has thrown
  std::string failure_;
  std::atomic<bool> failed_ = false;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace stipple::comm
