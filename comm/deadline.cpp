// SPDX-License-Identifier: Apache-2.0
#include "comm/deadline.h"

#include <unistd.h>

#include <condition_variable>
#include <mutex>

#include "core/log.h"
#include "core/thread.h"

namespace stipple::comm {

using Clock = std::chrono::steady_clock;

struct Deadline::State {
  explicit State(int code) : exit_code(code) {}

  const int exit_code;
  std::mutex mutex;
  std::condition_variable changed;
  bool stands = false;
  bool stopping = false;
  Clock::duration length{};
  Clock::time_point end;
  std::string why;

  void wait() {
    std::unique_lock lock(mutex);
    while (!stopping) {
      if (!stands) {
        changed.wait(lock);
      } else if (Clock::now() < end) {
        const Clock::time_point until = end;
        changed.wait_until(lock, until);
        // The process was suspended: what the deadline is about had no time either.
        if (Clock::now() > until + kSuspended) end = Clock::now() + length;
      } else {
        log::fatal(why);
        _exit(exit_code);
      }
    }
  }
};

Deadline::Deadline(int exit_code)
    : state_(std::make_shared<State>(exit_code)),
      thread_(
          start_thread("the thread that watches deadlines", [state = state_] { state->wait(); })) {}

Deadline::~Deadline() {
  bool stands = false;
  {
    const std::lock_guard lock(state_->mutex);
    stands = state_->stands;
    state_->stopping = !stands;
  }
  state_->changed.notify_all();
  stands ? thread_.detach() : thread_.join();
}

void Deadline::set(double seconds, const std::string& why) {
  const auto length =
      std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  const Clock::time_point end = Clock::now() + length;
  const std::lock_guard lock(state_->mutex);
  const bool is_sooner = !state_->stands || end < state_->end;
  state_->stands = true;
  state_->length = length;
  state_->end = end;
  state_->why = why;
  if (is_sooner) state_->changed.notify_all();
}

void Deadline::lift() {
  const std::lock_guard lock(state_->mutex);
  state_->stands = false;
}

}  // namespace stipple::comm
