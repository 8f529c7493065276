// SPDX-License-Identifier: Apache-2.0
// Restoring a run from a checkpoint. The number of ranks that read need not be the number that
// wrote.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "comm/communicator.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/tensor_ref.h"

namespace stipple::trainer {

/// Fills `into` from a checkpoint directory, or from the newest good one of a `checkpoints` or run
/// directory, changing nothing on disk. Each checkpoint that fails verification is named in a
/// warning with the reason. Tensors of kinds that `into` does not have are left out: parameters
/// alone can be restored. Those of kOptionalKind stay as they are where a checkpoint has none of
/// them. Collective.
///   DataError: there are checkpoints but none is good.
///   ConfigError: the tensors do not fit, naming them; before that, when the present `config_yaml`
///   is given, its keys that contradict the stored one (trainer/config/resume.h).
///   VersionError: the newest has a format version that this program does not read.
///   None: there is no checkpoint.
inline constexpr std::string_view kOptionalKind = "fixed";
std::optional<CheckpointMeta> load_checkpoint(const std::string& path, comm::Communicator&,
                                              std::span<const TensorRef> into,
                                              std::string_view config_yaml = {});

/// Why a directory is no good checkpoint; empty when it is one. VersionError as above.
std::string reason_against(const std::string& directory);

}  // namespace stipple::trainer
