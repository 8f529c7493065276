// SPDX-License-Identifier: Apache-2.0
// The curves of a report, made from what is recorded of a run.
#pragma once

#include <vector>

#include "trainer/record/chart.h"
#include "trainer/record/report.h"

namespace stipple::trainer {

/// What it learned, what its attention told (no section where that is nothing), how fast it was.
std::vector<ChartSection> report_charts(const ReportInput&);

}  // namespace stipple::trainer
