// SPDX-License-Identifier: Apache-2.0
// Several runs on one page: their results in a table, what their configurations differ in, and
// their curves over each other. The page is of the same kind as a run's report.html, and belongs to
// none of the runs.
#pragma once

#include <string>
#include <vector>

#include "trainer/record/chart.h"
#include "trainer/record/report.h"

namespace stipple::trainer {

/// More curves than this in one chart cannot be told apart.
inline constexpr size_t kMaxComparedRuns = 8;

/// A curve of each run that has one; charts without any are left out.
std::vector<ChartSection> comparison_charts(const std::vector<ReportInput>& runs);

/// Of each run: its name, metrics, configuration, figures. At least two, at most kMaxComparedRuns.
std::string render_comparison(const std::vector<ReportInput>& runs);

/// Reads the runs and writes the page to `path`. ConfigError when a directory holds no run, when
/// there are too many, or where `path` is something else than a page of ours.
void write_comparison(const std::vector<std::string>& run_directories, const std::string& path);

}  // namespace stipple::trainer
