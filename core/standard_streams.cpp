// SPDX-License-Identifier: Apache-2.0
#include "core/standard_streams.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "core/error.h"

namespace stipple {
namespace {

// Longer than any answer but a listing of very many tensors.
char answer[size_t{1} << 20];

/// Standard output is a pipe without a reader, or a terminal that is gone.
bool nobody_reads() {
  pollfd output = {.fd = STDOUT_FILENO, .events = POLLOUT, .revents = 0};
  return ::poll(&output, 1, 0) == 1 && (output.revents & (POLLERR | POLLHUP)) != 0;
}

}  // namespace

void prepare_standard_streams() {
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(descriptor, F_GETFD) >= 0 || errno != EBADF) continue;
    // The lowest free number is given: this one, as those below are open.
    if (::open("/dev/null", O_RDWR) != descriptor) std::abort();
  }
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  // Written once, at the end: one place that sees whether it arrives.
  std::setvbuf(stdout, answer, _IOFBF, sizeof answer);
}

void flush_standard_output() {
  const bool lost_before = std::ferror(stdout) != 0;
  errno = 0;
  const bool flushed = std::fflush(stdout) == 0;
  const int code = errno;
  if (flushed && !lost_before) return;
  STIPPLE_CHECK(nobody_reads(), "cannot write to standard output", code != 0 ? ": " : "",
                code != 0 ? std::strerror(code) : "");
}

}  // namespace stipple
