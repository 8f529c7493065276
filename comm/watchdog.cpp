// SPDX-License-Identifier: Apache-2.0
#include "comm/watchdog.h"

#include <unistd.h>

#include <chrono>
#include <thread>

#include "core/cuda/runtime.h"
#include "core/error.h"
#include "core/log.h"

namespace stipple::comm {

Watchdog::Watchdog(FlightRecorder& recorder, RankBoard& board, WatchdogOptions options)
    : recorder_(recorder),
      board_(board),
      options_(std::move(options)),
      thread_([this] { run(); }) {}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Watchdog::check() {
  if (!has_failed()) return;
  const std::lock_guard lock(mutex_);
  told_ = true;
  changed_.notify_all();
  throw CommError(failure_);
}

bool Watchdog::sleep(double seconds) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, std::chrono::duration<double>(seconds),
                           [this] { return stopping_ || told_; });
}

void Watchdog::run() {
  while (!sleep(options_.poll_s)) {
    const std::string text = diagnosis();
    if (text.empty()) continue;
    fail(text);
    if (sleep(options_.grace_s)) return;
    log::fatal(failure_);
    _exit(options_.exit_code);
  }
}

std::string Watchdog::diagnosis() {
  try {
    // A thread that names no device may make a context on the first one.
    if (options_.device.type == DeviceType::kCuda) cuda::use_device(options_.device.index);
    board_.publish(recorder_.poll());
    std::string fault = options_.fault();
    FlightRecorder::Open open = recorder_.oldest_open();
    const bool is_late = open.sequence > 0 && open.seconds > options_.operation_timeout_s;
    if (fault.empty() && !is_late) return {};
    // All ranks tell their positions as often as this: let the news arrive before judging who is
    // behind.
    std::this_thread::sleep_for(std::chrono::duration<double>(2 * options_.poll_s));
    board_.publish(recorder_.poll());
    if (!fault.empty()) open = recorder_.oldest_open();
    std::string operation = "between operations";
    if (open.sequence > 0) {
      operation = detail::concat(open.kind, " #", open.sequence, " of ", open.bytes, " bytes");
    }
    if (fault.empty()) {
      operation += detail::concat(" has not ended after ", open.seconds, " s");
    } else {
      fault = "; " + fault;
    }
    return detail::concat(options_.who, ": ", operation, fault, "; ", who_is_behind(board_.read()));
  } catch (const std::exception& e) {
    return options_.who + ": " + e.what();
  }
}

void Watchdog::fail(const std::string& text) {
  {
    const std::lock_guard lock(mutex_);
    failure_ = text;
  }
  failed_.store(true, std::memory_order_release);
  std::thread(options_.abort).detach();
}

}  // namespace stipple::comm
