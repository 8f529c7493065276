// SPDX-License-Identifier: Apache-2.0
// Which step of a run was best on validation: the one that stays among its checkpoints, and that
// `--checkpoint best` takes.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "data/metric.h"
#include "trainer/record/metrics.h"

namespace stipple::trainer {

/// Of `steps`, the one whose validation was best by this measure, the earliest of equals; none where
/// none of them was validated. Evaluations under overrides do not count.
std::optional<int64_t> best_step(std::vector<int64_t> steps, std::span<const EvalRecord>,
                                 const data::Metric&);

}  // namespace stipple::trainer
