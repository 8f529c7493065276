// SPDX-License-Identifier: Apache-2.0
// Ranks as threads of one process: the transport of fast tests. Same interface, same semantics as
// MPI.
#pragma once

#include <functional>

#include "comm/communicator.h"

namespace stipple::comm {

/// Runs body once per rank, each in its own thread with its own communicator, and waits for all.
/// The first exception of any rank makes the others' pending calls throw CommError; it is rethrown
/// here.
void run_ranks(int size, const std::function<void(Communicator&)>& body);

}  // namespace stipple::comm
