// SPDX-License-Identifier: Apache-2.0
// When heads of Sparsefinder that learn their graph beside exact attention switch to the predicted one
// (attention.sparsefinder.gate): a head does once its whole support is predicted for so large a share
// of the queries of held-out examples.
//
// Held out from the fit before it: as many leaves as that took, the next ones in the order of
// training. (Where the order begins anew among them, an example may be in both.) What comes of it is
// a function of the parameters and the step, the same bits on any number of ranks, and stands among
// the parameters (model/attention/sparsefinder/head_gate.h), so that checkpoints keep it.
#pragma once

#include "comm/communicator.h"
#include "data/dataset.h"
#include "trainer/config/config.h"
#include "trainer/loop/replica.h"

namespace stipple::trainer {

/// After a fit to what follows `step`; rank 0 says which heads switched. Leaves are dealt to ranks.
/// Costs an evaluation of them. Collective.
void switch_heads(Replica&, comm::Communicator&, const data::Dataset& training,
                  const data::TaskInfo&, const Config&, int64_t step);

}  // namespace stipple::trainer
