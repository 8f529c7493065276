// SPDX-License-Identifier: Apache-2.0
// Requests from outside: "save and stop". SIGUSR1 and SIGUSR2 (which mpirun and srun forward to
// every rank) and SIGTERM set a flag; the training loop looks at it once a step and ranks agree
// before they act.
#pragma once

namespace stipple::trainer {

/// Installs the handlers; idempotent.
void catch_stop_signals();
/// A stop was asked for on this rank.
bool stop_requested();

}  // namespace stipple::trainer
