// SPDX-License-Identifier: Apache-2.0
// A new run that begins with the parameters of another model (init.from): of a run, a checkpoint, or
// an imported model (trainer/checkpoint/stored_model.h).
#pragma once

#include "comm/communicator.h"
#include "core/stream.h"
#include "data/dataset.h"
#include "model/parameter_store.h"
#include "trainer/config/config.h"

namespace stipple::trainer {

/// Fills the parameters that both models have, and tells which these are, which are new here and which
/// are left out. Names decide: an attention that adds parameters of its own to the projections begins
/// with these as new. The head of a classifier is its task's: where it has another shape it is new.
/// Nothing where init.from is empty. ConfigError where the encoders are not alike, a tensor has another
/// shape, or tokens come from another vocabulary, naming the keys. Collective.
void init_from(const Config&, const data::TaskInfo&, comm::Communicator&, const Stream&,
               const model::ParameterStore&);

}  // namespace stipple::trainer
