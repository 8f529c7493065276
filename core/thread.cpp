// SPDX-License-Identifier: Apache-2.0
#include "core/thread.h"

#include <system_error>
#include <utility>

#include "core/error.h"

namespace stipple {

std::thread start_thread(const std::string& what, std::function<void()> body) {
  try {
    return std::thread(std::move(body));
  } catch (const std::system_error& e) {
    throw ConfigError(detail::concat(
        "cannot start ", what, ": ", e.code().message(),
        "; lower threads, or raise the limits on processes and memory (ulimit -u, ulimit -v, "
        "pids.max of the control group)"));
  }
}

}  // namespace stipple
