// SPDX-License-Identifier: Apache-2.0
// A run with exact entmax attention, as the commands of Sparsefinder take it.
#pragma once

#include <string>

#include "model/attention/attention_config.h"
#include "trainer/commands/open_run.h"
#include "trainer/loop/exact_supports.h"

namespace stipple::trainer {

/// open_run() for `stipple sparsefinder <command>`. ConfigError, too, on all ranks, where there are
/// several, or where the run was not trained with an attention whose support can be predicted.
OpenedRun open_exact_run(comm::Communicator&, const char* command, const std::string& run_dir,
                         const std::vector<std::string>& overrides);

/// The configuration with this attention in place of its own: what entmax means is the same in both,
/// and so are the parameters.
Config with_attention(Config, model::AttentionKind);

/// Of that many examples of the training split, the first in the order of training, by the newest
/// checkpoint. ConfigError where the split is not the run's.
ExactSupports supports_of(comm::Communicator&, const OpenedRun&, int64_t examples);

}  // namespace stipple::trainer
