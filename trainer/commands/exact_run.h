// SPDX-License-Identifier: Apache-2.0
// A run with exact entmax attention, as the commands of Sparsefinder take it.
#pragma once

#include <string>

#include "model/attention/attention_config.h"
#include "trainer/commands/open_run.h"
#include "trainer/loop/exact_supports.h"

namespace stipple::trainer {

/// ConfigError, on all ranks, where there are several.
void require_alone(comm::Communicator&, const char* command);
/// ConfigError where the attention of the run in `run_dir` has no support to predict.
void require_entmax(const Config&, const std::string& run_dir);
/// The configuration with this attention in place of its own: what entmax means is the same in both,
/// and so are the parameters.
Config with_attention(Config, model::AttentionKind);

/// Of that many examples of the training split, the first in the order of training, by the newest
/// checkpoint.
ExactSupports supports_of(comm::Communicator&, const OpenedRun&, int64_t examples);

}  // namespace stipple::trainer
