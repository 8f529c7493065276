// SPDX-License-Identifier: Apache-2.0
// Requests from outside: "save and stop". They set a flag; the training loop looks at it once a
// step and ranks agree before they act.
//
// No handler exists: the signals are blocked in every thread and taken by one that only waits for
// them. A handler would run on the stack of whatever thread is interrupted, and oneDNN's
// products keep their stack pointer inside the heap while they run (docs/dependencies.md).
#pragma once

namespace stipple::trainer {

/// From here on SIGINT, SIGTERM, SIGUSR1, SIGUSR2 (which mpirun and srun forward to every rank),
/// SIGXCPU, and SIGHUP unless it is ignored already, as under nohup, ask for a stop. A second
/// SIGINT ends the process at once. To be called before any other thread is started, for threads
/// inherit what is blocked; forked children get back what was blocked before. Idempotent.
/// ConfigError if the thread that waits cannot be started.
void catch_stop_signals();
/// A stop was asked for on this rank.
bool stop_requested();

}  // namespace stipple::trainer
