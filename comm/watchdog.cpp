// SPDX-License-Identifier: Apache-2.0
#include "comm/watchdog.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "core/cuda/runtime.h"
#include "core/error.h"
#include "core/thread.h"

namespace stipple::comm {
namespace {

using Clock = FlightRecorder::Clock;

double seconds_since(Clock::time_point time) {
  return std::chrono::duration<double>(Clock::now() - time).count();
}

}  // namespace

/// What outlives the watchdog once it has failed.
struct Watchdog::Shared {
  explicit Shared(std::shared_ptr<Deadline> d) : deadline(std::move(d)) {}

  std::shared_ptr<Deadline> deadline;
  std::mutex mutex;
  std::condition_variable changed;
  bool stopping = false;
  bool told = false;  ///< check() has thrown
  std::string failure;
  std::atomic<bool> failed = false;

  /// False once the watchdog is going: nobody asks any more.
  bool fail(const std::string& text, double grace_s) {
    const std::lock_guard lock(mutex);
    if (stopping) return false;
    failure = text;
    failed.store(true, std::memory_order_release);
    deadline->set(grace_s, failure);
    return true;
  }
  void add(const std::string& text, double grace_s) {
    const std::lock_guard lock(mutex);
    failure += text;
    deadline->set(grace_s, failure);
  }
};

Watchdog::Watchdog(FlightRecorder& recorder, RankBoard& board, std::shared_ptr<Deadline> deadline,
                   WatchdogOptions options)
    : recorder_(recorder),
      board_(board),
      options_(std::move(options)),
      unheard_(options_.who +
               ": the device's driver does not come back from a call; the kernel's "
               "log (dmesg) may say why"),
      shared_(std::make_shared<Shared>(std::move(deadline))) {
  thread_ = start_thread(
      "the watchdog", [this, shared = shared_, abort = options_.abort, grace_s = options_.grace_s] {
        const std::string text = watch();
        if (text.empty() || !shared->fail(text, grace_s)) return;
        // From here on the watchdog may be gone.
        try {
          abort();
        } catch (const std::exception& e) {
          shared->add(detail::concat("; aborting failed, too: ", e.what()), grace_s);
        }
      });
}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(shared_->mutex);
    shared_->stopping = true;
  }
  shared_->changed.notify_all();
  has_failed() ? thread_.detach() : thread_.join();
}

bool Watchdog::has_failed() const { return shared_->failed.load(std::memory_order_acquire); }

void Watchdog::check() {
  if (!has_failed()) return;
  const std::lock_guard lock(shared_->mutex);
  if (!shared_->told) shared_->deadline->set(options_.grace_s, shared_->failure);
  shared_->told = true;
  throw CommError(shared_->failure);
}

bool Watchdog::sleep(double seconds) {
  std::unique_lock lock(shared_->mutex);
  return shared_->changed.wait_for(lock, std::chrono::duration<double>(seconds),
                                   [this] { return shared_->stopping; });
}

std::string Watchdog::watch() {
  std::string text;
  while (text.empty() && !sleep(options_.poll_s)) {
    shared_->deadline->set(options_.operation_timeout_s + options_.grace_s, unheard_);
    text = diagnosis();
  }
  shared_->deadline->lift();
  return text;
}

std::optional<FlightRecorder::Progress> Watchdog::poll() {
  const std::optional<FlightRecorder::Progress> progress = recorder_.poll();
  if (!progress) return progress;
  seen_ = Clock::now();
  board_.publish(progress->position);
  return progress;
}

std::string Watchdog::diagnosis() {
  try {
    // A thread that names no device may make a context on the first one.
    if (options_.device.type == DeviceType::kCuda) cuda::use_device(options_.device.index);
    std::optional<FlightRecorder::Progress> progress = poll();
    std::string fault = options_.fault();
    const bool is_stuck = seconds_since(seen_) > options_.operation_timeout_s;
    const bool is_late = progress && progress->open.sequence > 0 &&
                         progress->open.seconds > options_.operation_timeout_s;
    if (fault.empty() && !is_late && !is_stuck) return {};
    // All ranks tell their positions as often as this: let the news arrive before judging who is
    // behind.
    std::this_thread::sleep_for(std::chrono::duration<double>(2 * options_.poll_s));
    const std::optional<FlightRecorder::Progress> later = poll();
    if (later && !is_late) progress = later;
    std::string operation = "between operations";
    if (!progress) {
      operation = detail::concat(
          "an operation is being enqueued, and the call to the device has not come back after ",
          seconds_since(seen_), " s");
    } else if (progress->open.sequence > 0) {
      const FlightRecorder::Open& open = progress->open;
      operation = detail::concat(open.kind, " #", open.sequence, " of ", open.bytes, " bytes");
      if (fault.empty()) {
        operation += detail::concat(" has not ended after ", open.seconds, " s");
      }
    }
    if (!fault.empty()) fault = "; " + fault;
    return detail::concat(options_.who, ": ", operation, fault, "; ", who_is_behind(board_.read()));
  } catch (const std::exception& e) {
    return options_.who + ": " + e.what();
  }
}

}  // namespace stipple::comm
