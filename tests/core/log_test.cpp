// SPDX-License-Identifier: Apache-2.0
// Lines as a terminal, a closed pipe and the log file receive them. Each case runs in a child
// process with a standard error of its own.
#include "core/log.h"

#include <gtest/gtest.h>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace stipple::log {
namespace {

constexpr const char* kLine = "step 10/100  loss 1.2345  accuracy 45.0 %  ETA 1:23";

std::string read_all(int descriptor) {
  std::string text;
  char piece[4096];
  // A terminal whose last writer has left answers with an error, a pipe with 0.
  for (ssize_t n; (n = ::read(descriptor, piece, sizeof piece)) > 0;)
    text.append(piece, static_cast<size_t>(n));
  return text;
}

/// What `body` shows on a terminal of this kind and width.
std::string shown_on_terminal(const char* kind, unsigned short columns, void (*body)()) {
  winsize size = {.ws_row = 24, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
  int screen = -1;
  const pid_t child = forkpty(&screen, nullptr, nullptr, &size);
  if (child == 0) {
    setenv("TERM", kind, 1);
    body();
    _exit(0);
  }
  const std::string text = read_all(screen);
  ::close(screen);
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  return text;
}

TEST(Progress, OverwritesItselfOnATerminal) {
  EXPECT_EQ(shown_on_terminal("xterm", 120, [] { progress(kLine); }),
            "\r" + std::string(kLine) + "\033[K");
}

TEST(Progress, ShowsTheFirstFieldsOnANarrowTerminal) {
  EXPECT_EQ(shown_on_terminal("xterm", 45, [] { progress(kLine); }),
            "\rstep 10/100  loss 1.2345  accuracy 45.0 %\033[K");
  EXPECT_EQ(shown_on_terminal("xterm", 30, [] { progress(kLine); }),
            "\rstep 10/100  loss 1.2345\033[K");
  EXPECT_EQ(shown_on_terminal("xterm", 8, [] { progress(kLine); }), "\rstep 10\033[K");
}

TEST(Progress, WithoutAWidthEightyColumnsAreAssumed) {
  static const std::string first(60, 'x');
  EXPECT_EQ(shown_on_terminal("xterm", 0, [] { progress(first + "  " + first); }),
            std::string("\r").append(first).append("\033[K"));
}

TEST(Progress, HasNoEscapesOnATerminalThatCannotTakeThem) {
  for (const char* kind : {"dumb", ""}) {
    const std::string text = shown_on_terminal(kind, 40, [] {
      progress(kLine);
      progress(kLine);  // too soon to be printed again
      info("done");
    });
    EXPECT_EQ(text, std::string(kLine) + "\r\ndone\r\n");
  }
}

TEST(Progress, IsKeptLineByLineInTheLogFile) {
  const std::string path = testing::TempDir() + "log_test.txt";
  std::filesystem::remove(path);
  const pid_t child = fork();
  if (child == 0) {
    set_file(path);
    progress("step 1");
    progress("step 2");
    info("done");
    _exit(0);
  }
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  EXPECT_EQ(text.str(), "step 1\nstep 2\ndone\n");
}

TEST(Log, OutlivesATerminalThatIsGone) {
  int screen = -1;
  int shown = -1;
  ASSERT_EQ(openpty(&screen, &shown, nullptr, nullptr, nullptr), 0);
  const pid_t child = fork();
  if (child == 0) {
    dup2(shown, STDERR_FILENO);
    ::close(screen);
    ::close(shown);
    progress(kLine);
    info("a line");
    error("another");
    _exit(0);
  }
  ::close(shown);
  ::close(screen);
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace stipple::log
