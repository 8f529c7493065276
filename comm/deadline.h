// SPDX-License-Identifier: Apache-2.0
// A thread that only waits: when a deadline passes that nobody has moved or lifted, it says why and
// ends the process. It calls no device and no MPI and shares its lock with nobody who does, so that
// what hangs there cannot keep it.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <thread>

namespace stipple::comm {

/// A thread that wakes so much later than it meant to belonged to a process that was stopped.
inline constexpr std::chrono::seconds kSuspended{1};

class Deadline {
 public:
  /// The process would end with this exit code. ConfigError when the thread cannot be had.
  explicit Deadline(int exit_code);
  /// A deadline that stands goes on standing.
  ~Deadline();
  Deadline(const Deadline&) = delete;
  Deadline& operator=(const Deadline&) = delete;

  /// So many seconds from now, in place of the one before. From any thread; cheap where it only
  /// moves away. Time during which the process was suspended does not count.
  void set(double seconds, const std::string& why);
  void lift();

 private:
  struct State;
  std::shared_ptr<State> state_;
  std::thread thread_;
};

}  // namespace stipple::comm
