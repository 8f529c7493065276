// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/signals.h"

#include <csignal>
#include <initializer_list>

namespace stipple::trainer {
namespace {
volatile std::sig_atomic_t stop_flag = 0;
void on_signal(int) { stop_flag = 1; }
}  // namespace

void catch_stop_signals() {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  for (const int signal : {SIGUSR1, SIGUSR2, SIGTERM}) sigaction(signal, &action, nullptr);
}

bool stop_requested() { return stop_flag != 0; }

}  // namespace stipple::trainer
