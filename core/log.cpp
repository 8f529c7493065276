// SPDX-License-Identifier: Apache-2.0
#include "core/log.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <mutex>

#include "core/error.h"

namespace stipple::log {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kProgressInterval{5};
constexpr size_t kUsualColumns = 80;

/// Standard error is a terminal on which a line can be overwritten.
bool has_screen() {
  const char* kind = std::getenv("TERM");
  return isatty(STDERR_FILENO) != 0 && kind != nullptr && std::string_view(kind) != "" &&
         std::string_view(kind) != "dumb";
}

size_t screen_columns() {
  winsize size = {};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return kUsualColumns;
  return size.ws_col;
}

/// As much of a line as fits without wrapping: whole fields, which two spaces separate, if one does.
std::string_view cut_to(std::string_view text, size_t columns) {
  if (text.size() < columns) return text;  // the last column is left to the cursor
  const size_t gap = text.rfind("  ", columns - 1);
  return text.substr(0, gap != std::string_view::npos && gap > 0 ? gap : columns - 1);
}

struct State {
  std::mutex mutex;
  std::atomic<int> rank = 0;
  std::string label;  // "[rank 3/8 host:pid] "; empty for a single rank
  int file = -1;
  bool progress_shown = false;
  Clock::time_point last_progress{};
};

State& state() {
  static State& s = *new State;  // never destroyed: threads may speak until the process ends
  return s;
}

/// What cannot be written is lost: a closed pipe or a terminal that is gone must not end a job.
void put(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(descriptor, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
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
  const std::string whole_line = detail::concat(text, "\n");
  if (s.file >= 0) put(s.file, whole_line);
  const auto now = Clock::now();
  if (has_screen()) {
    put(STDERR_FILENO, detail::concat("\r", cut_to(text, screen_columns()), "\033[K"));
    s.progress_shown = true;
  } else if (now - s.last_progress >= kProgressInterval) {
    put(STDERR_FILENO, whole_line);
    s.last_progress = now;
  }
}

}  // namespace stipple::log
