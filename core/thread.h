// SPDX-License-Identifier: Apache-2.0
// How every thread here is started: a machine may refuse one at any time, for want of processes or
// of memory for its stack.
#pragma once

#include <functional>
#include <string>
#include <thread>

namespace stipple {

/// A thread that runs `body`. ConfigError, which says that `what` ("the watchdog") could not be
/// started and what helps, when it is refused; threads that run already are the caller's to end.
std::thread start_thread(const std::string& what, std::function<void()> body);

}  // namespace stipple
