// SPDX-License-Identifier: Apache-2.0
#include "core/log.h"

#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <mutex>

#include "core/error.h"

namespace stipple::log {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kProgressInterval{5};

struct State {
  std::mutex mutex;
  int rank = 0;
  std::string label;  // "[rank 3/8 host:pid] "; empty for a single rank
  int file = -1;
  bool terminal = isatty(STDERR_FILENO) != 0;
  bool progress_shown = false;
  Clock::time_point last_progress{};
};

State& state() {
  static State s;
  return s;
}

void put(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(descriptor, text.data(), text.size());
    if (written <= 0) return;
    text.remove_prefix(static_cast<size_t>(written));
  }
}

void line(std::string_view severity, std::string_view message, bool labelled) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  std::string text;
  if (labelled) text += s.label;
  text += severity;
  text += message;
  text += '\n';
  if (s.file >= 0) put(s.file, text);
  if (s.progress_shown) put(STDERR_FILENO, "\r\033[K");
  s.progress_shown = false;
  put(STDERR_FILENO, text);
}

}  // namespace

void set_rank(int rank, int size) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  s.rank = rank;
  s.label.clear();
  if (size > 1) {
    char host[64] = "";
    gethostname(host, sizeof host - 1);
    s.label = detail::concat("[rank ", rank, "/", size, " ", host, ":", getpid(), "] ");
  }
}

void set_file(const std::string& path) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (s.file >= 0) ::close(s.file);
  s.file = -1;
  if (path.empty()) return;
  s.file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  STIPPLE_CHECK_AS(ConfigError, s.file >= 0, "cannot write the log file ", path);
}

void info(std::string_view message) {
  if (state().rank == 0) line("", message, false);
}
void warn(std::string_view message) { line("warning: ", message, true); }
void error(std::string_view message) { line("error: ", message, true); }

void fatal(std::string_view message) noexcept {
  try {
    line("fatal: ", message, true);
  } catch (...) {
    put(STDERR_FILENO, "fatal\n");
  }
}

void progress(std::string_view text) {
  State& s = state();
  if (s.rank != 0) return;
  const std::lock_guard lock(s.mutex);
  const auto now = Clock::now();
  if (s.terminal) {
    put(STDERR_FILENO, detail::concat("\r", text, "\033[K"));
    s.progress_shown = true;
  } else if (now - s.last_progress >= kProgressInterval) {
    put(STDERR_FILENO, detail::concat(text, "\n"));
    s.last_progress = now;
  }
}

}  // namespace stipple::log
