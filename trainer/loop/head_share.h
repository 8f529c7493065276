// SPDX-License-Identifier: Apache-2.0
// How ranks divide the work of fitting what predicts graphs: leaves are dealt out to be run, heads to
// be fitted. A head's fit is a chain of steps over all examples, and heads know nothing of each
// other; so each rank gets all examples of its own heads and fits them as one rank would, to the
// same bits on any number of ranks.
#pragma once

#include <cstdint>

#include "comm/communicator.h"
#include "trainer/loop/exact_supports.h"

namespace stipple::trainer {

/// Heads of all layers, counted through, are dealt to ranks by turns.
struct HeadShare {
  int rank = 0;
  int ranks = 1;
  int owner(int64_t head) const { return static_cast<int>(head % ranks); }
  bool owns(int64_t head) const { return owner(head) == rank; }
};

/// `of_leaves`: all heads of this rank's leaves, where ranks have leaves in ascending order. Returns
/// this rank's heads of all leaves, in order, and nothing of other heads. Collective.
ExactSupports exchange_heads(comm::Communicator&, ExactSupports of_leaves);

}  // namespace stipple::trainer
