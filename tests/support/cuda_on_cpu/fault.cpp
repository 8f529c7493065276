// SPDX-License-Identifier: Apache-2.0
#include "fault.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <mutex>

namespace cuda_on_cpu {
namespace {

std::array<Explanation, 4> explanations;
size_t explanation_count = 0;
struct sigaction previous_action;

void pass_on(int signal, siginfo_t* info, void* context) {
  if ((previous_action.sa_flags & SA_SIGINFO) != 0 && previous_action.sa_sigaction != nullptr) {
    previous_action.sa_sigaction(signal, info, context);
    return;
  }
  sigaction(SIGSEGV, &previous_action,
            nullptr);  // the access faults again, and ends as it would have
}

void on_fault(int signal, siginfo_t* info, void* context) {
  std::array<char, 256> what{};
  for (size_t i = 0; i < explanation_count; ++i) {
    if (!explanations[i](info->si_addr, what.data(), what.size())) continue;
    std::array<char, 512> place{};
    std::array<char, 800> line{};
    describe_running_thread(place.data(), place.size());
    const int length =
        std::snprintf(line.data(), line.size(), "cuda_on_cpu: %s%s\n", place.data(), what.data());
    [[maybe_unused]] const ssize_t written =
        write(STDERR_FILENO, line.data(), std::min(static_cast<size_t>(length), line.size() - 1));
    std::abort();
  }
  pass_on(signal, info, context);
}

/// A stack overflow leaves no room on the stack. Sanitizers have given each thread such a stack
/// already.
void give_signal_stack() {
  stack_t stack{};
  if (sigaltstack(nullptr, &stack) == 0 && (stack.ss_flags & SS_DISABLE) == 0) return;
  static std::array<std::byte, 64 << 10> memory;
  stack = {};
  stack.ss_sp = memory.data();
  stack.ss_size = memory.size();
  sigaltstack(&stack, nullptr);
}

}  // namespace

void explain_faults_with(Explanation explanation) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  explanations.at(explanation_count) = explanation;
  if (explanation_count++ > 0) return;
  give_signal_stack();
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, &previous_action);
}

}  // namespace cuda_on_cpu
