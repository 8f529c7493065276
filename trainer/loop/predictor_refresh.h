// SPDX-License-Identifier: Apache-2.0
// Sparsefinder's projections and centroids follow the model that is trained
// (attention.sparsefinder.refresh_every). Ranks divide the examples to run and the heads to fit
// (trainer/loop/head_share.h) and end with the same bits, those of one rank; what comes of it stands
// among the parameters, so that checkpoints keep it.
#pragma once

#include "comm/communicator.h"
#include "data/dataset.h"
#include "trainer/config/config.h"
#include "trainer/loop/replica.h"

namespace stipple::trainer {

/// Whether it is due after this step, the first having number 1.
bool refreshes_after(const Config&, int64_t step);

/// Fits what the replica has to the exact attention that it has now, beginning with that: one epoch of
/// projections, then centroids anew. No step may be under way. A model that gives what is no number
/// keeps what it had, with a warning. Host memory for the parameters once more, while it runs.
/// Then heads may switch (trainer/loop/head_switch.h). Collective.
void refresh_predictor(Replica&, comm::Communicator&, const data::Dataset& training,
                       const data::TaskInfo&, const Config&, int64_t step);

}  // namespace stipple::trainer
