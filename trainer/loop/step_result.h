// SPDX-License-Identifier: Apache-2.0
// What one optimizer step came to.
#pragma once

#include <cstdint>
#include <optional>

#include "kernels/lamb.h"
#include "trainer/optimizer/schedule.h"
#include "trainer/record/metrics.h"

namespace stipple::trainer {

struct StepResult {
  double loss = 0;            ///< mean over the labels of the global batch
  double auxiliary_loss = 0;  ///< weighted regularisers of the global batch
  int64_t examples = 0;       ///< of the global batch
  int64_t tokens = 0;         ///< real tokens of the global batch
  StepRates rates{};
  double grad_norm = 0;
  std::optional<kernels::TrustRatios> trust{};  ///< of LAMB
  bool skipped = false;
  bool leave = false;  ///< some rank was asked to leave the loop
  bool save = false;   ///< some rank was asked for a checkpoint
  StepSeconds seconds{};
};

}  // namespace stipple::trainer
