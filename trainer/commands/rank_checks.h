// SPDX-License-Identifier: Apache-2.0
// What `stipple doctor` finds out about ranks together: whether they see one folder, how far their
// clocks are apart, how fast they exchange. Nothing is left behind.
#pragma once

#include <string>
#include <vector>

#include "comm/communicator.h"

namespace stipple::trainer {

/// A line for people, and where something is not as it should be, what to do.
struct Finding {
  std::string title;
  std::string text;
  std::string advice = {};  ///< empty: all is well
};

/// Each is collective, and rank 0 gets the answer.
///
/// A file that rank 0 writes into `folder` is seen by all ranks; free space and free inodes there.
/// The folder need not exist: its nearest parent stands for it.
Finding check_shared_folder(comm::Communicator&, const std::string& folder);
/// The clocks of the nodes, to what an exchange between them takes.
Finding check_clocks(comm::Communicator&);
/// About 100 ms of all-reduces of 4 MiB: bus bandwidth, 2 (p - 1) / p of the bytes per second,
/// against shared memory or the fastest network interface of rank 0's node.
Finding check_bandwidth(comm::Communicator&);
/// Network interfaces of the nodes that are up; nothing to tell on a single node.
Finding check_interfaces(comm::Communicator&);

/// Of this node: "eth0", in order of their names, loopback excluded.
std::vector<std::string> network_interfaces();

}  // namespace stipple::trainer
