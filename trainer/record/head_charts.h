// SPDX-License-Identifier: Apache-2.0
// Charts of what records tell per layer and head.
#pragma once

#include <vector>

#include "trainer/record/chart.h"
#include "trainer/record/figures.h"
#include "trainer/record/metrics.h"

namespace stipple::trainer {

/// Whether it is drawn behind another one of `figures`.
bool is_baseline(const ShownFigure&, const std::vector<ShownFigure>& figures);

/// A figure of the training records, or of the evaluations on the validation split where only those
/// tell it; its baseline faint behind it, or in a chart of its own where there are too many heads
/// for curves. Nothing where no head tells it.
std::vector<Chart> head_charts(const Metrics&, const ShownFigure&,
                               const std::vector<ShownFigure>& all);

}  // namespace stipple::trainer
