// SPDX-License-Identifier: Apache-2.0
// How the program ends, as scripts see it.
#pragma once

#include <exception>
#include <string>

namespace stipple::trainer {

/// Exit codes that scripts can trust.
enum ExitCode : int {
  kDone = 0,
  kFailed = 1,  ///< something broke; starting again resumes from the last checkpoint
  kBadConfig =
      2,  ///< what was asked cannot be (configuration, data, model, memory): starting again would not help
  kRequeue = 75,  ///< stopped after a checkpoint, by a signal, the clock or a file; start again
  kDoNotRestart = 93,  ///< training diverged and would do so again
};
/// The exit code that an exception means.
int exit_code_of(const std::exception&);
/// What to tell a person about it, in one line.
std::string message_of(const std::exception&);

}  // namespace stipple::trainer
