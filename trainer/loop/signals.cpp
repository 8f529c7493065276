// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/signals.h"

#include <pthread.h>

#include <atomic>
#include <csignal>
#include <cstring>

#include "core/error.h"
#include "core/log.h"
#include "core/thread.h"

namespace stipple::trainer {
namespace {

std::atomic<bool> stop_flag = false;
sigset_t mask_before;

sigset_t stop_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU}) sigaddset(&signals, signal);
  struct sigaction hangup = {};
  sigaction(SIGHUP, nullptr, &hangup);
  if (hangup.sa_handler != SIG_IGN) sigaddset(&signals, SIGHUP);
  return signals;
}

/// The next one finds its default action in this thread: the end of the process.
void let_end(int signal, sigset_t& awaited) {
  sigdelset(&awaited, signal);
  sigset_t only;
  sigemptyset(&only);
  sigaddset(&only, signal);
  pthread_sigmask(SIG_UNBLOCK, &only, nullptr);
}

void wait_for_signals(sigset_t awaited) {
  for (;;) {
    int signal = 0;
    if (sigwait(&awaited, &signal) != 0) continue;
    if (signal == SIGINT) let_end(SIGINT, awaited);
    if (stop_flag.exchange(true)) continue;
    log::info(detail::concat("SIG", sigabbrev_np(signal), ": will save and stop",
                             signal == SIGINT ? "; once more ends at once, without saving" : ""));
  }
}

void start_waiting() {
  const sigset_t signals = stop_signals();
  pthread_sigmask(SIG_BLOCK, &signals, &mask_before);
  pthread_atfork(nullptr, nullptr, [] { pthread_sigmask(SIG_SETMASK, &mask_before, nullptr); });
  // A shell's background job is started with SIGINT ignored; to ask for it by name is to mean it.
  std::signal(SIGINT, SIG_DFL);
  start_thread("the thread that waits for signals", [signals] {
    wait_for_signals(signals);
  }).detach();
}

}  // namespace

void catch_stop_signals() {
  static const bool started = (start_waiting(), true);
  static_cast<void>(started);
}

bool stop_requested() { return stop_flag.load(std::memory_order_relaxed); }

}  // namespace stipple::trainer
