// SPDX-License-Identifier: Apache-2.0
// The operations that a transport has enqueued on a device: number, kind, size, and events that
// tell how far the device has come. Enqueued by one thread, looked at by another (the watchdog).
// Slots and events are reused: a steady step allocates nothing.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/function_ref.h"
#include "core/stream.h"

namespace stipple::comm {

/// How far one rank has come, by sequence number; 0 is none.
struct Position {
  int64_t begun = 0;     ///< newest operation that the host has begun
  int64_t reached = 0;   ///< newest that the device has arrived at
  int64_t finished = 0;  ///< newest that the device has done, with all before it
  bool operator==(const Position&) const = default;
};

class FlightRecorder {
 public:
  using Clock = std::chrono::steady_clock;

  /// Room for `capacity` operations at first.
  FlightRecorder(const Stream& stream, size_t capacity);

  /// Before the operation goes to the stream. Calls idle() again and again while the oldest
  /// operations are still under way and there is no room for another.
  int64_t begin(const char* kind, int64_t bytes, FunctionRef<void()> idle);
  /// After it went there.
  Pending end(int64_t sequence);
  /// Lets `stream` wait for the operation. CommError, starting with `who`, when it is not pending.
  void wait(const Stream& stream, Pending, const std::string& who);

  /// The oldest operation that has not finished, and since when nothing has; sequence 0: none.
  struct Open {
    const char* kind = "";
    int64_t sequence = 0;
    int64_t bytes = 0;
    double seconds = 0;
  };
  struct Progress {
    Position position;
    Open open;
  };
  /// For the watchdog: looks at the events. Empty while another thread is inside one of the calls
  /// above, which may hang with the device: this one does not wait for it.
  std::optional<Progress> poll();

 private:
  struct Slot {
    explicit Slot(Device device)
        : reached(device, /*is_timed=*/false), finished(device, /*is_timed=*/false) {}
    int64_t sequence = 0;
    const char* kind = "";
    int64_t bytes = 0;
    Clock::time_point begun;
    bool enqueued = false;
    bool waited = true;
    bool captured = false;  ///< in a graph: it runs later, and its events tell nothing
    Event reached;
    Event finished;
  };

  Slot& slot(int64_t sequence) { return slots_[static_cast<size_t>(sequence) % slots_.size()]; }
  const Slot& slot(int64_t sequence) const {
    return slots_[static_cast<size_t>(sequence) % slots_.size()];
  }
  bool is_full() const;
  void grow();
  void look();
  Open oldest_open() const;

  const Stream& stream_;
  std::mutex mutex_;
  std::vector<Slot> slots_;  // by sequence number, modulo their number
  Position position_;
  Clock::time_point last_progress_ = Clock::now();
};

}  // namespace stipple::comm
