// SPDX-License-Identifier: Apache-2.0
// The model of a trained run, for commands that use it.
#pragma once

#include <memory>
#include <string>

#include "trainer/checkpoint/manifest.h"
#include "trainer/commands/chosen_checkpoint.h"
#include "trainer/commands/open_run.h"
#include "trainer/loop/replica.h"

namespace stipple::trainer {

/// Fills them from a checkpoint (chosen_checkpoint.h); where the run stood. What is not learned comes from
/// there, too, if it is there, unless `config` names another attention.sparsefinder.fitted than the
/// run was trained with. ConfigError where there is no checkpoint yet. Collective.
CheckpointMeta load_parameters(comm::Communicator&, const OpenedRun&, const Config& config,
                               const Stream&, model::ParameterStore&,
                               const std::string& checkpoint = std::string(kNewestCheckpoint));

struct LoadedModel {
  std::unique_ptr<Replica> replica;
  CheckpointMeta meta;
};

/// The run's model under `config`, ready to be evaluated on the config's device; ConfigError, too,
/// where memory does not suffice. Collective.
LoadedModel load_model(comm::Communicator&, const OpenedRun&, const Config& config,
                       const std::string& checkpoint = std::string(kNewestCheckpoint));

/// ConfigError where this split is not what it was when the run was trained; data that an override
/// names are others on purpose.
void require_same_data(const CheckpointMeta&, const OpenedRun&, data::Split, const data::Dataset&);

}  // namespace stipple::trainer
