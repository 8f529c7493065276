// SPDX-License-Identifier: Apache-2.0
// report.html in a run directory: one self-contained page with the run's result, curves, step-time
// split and configuration. It opens without a network and needs no script.
#pragma once

#include <string>
#include <vector>

#include "data/metric.h"
#include "trainer/record/data_summary.h"
#include "trainer/record/figures.h"
#include "trainer/record/graph_picture.h"
#include "trainer/record/metrics.h"

namespace stipple::trainer {

/// Results to compare with, in one metric.
struct Ladder {
  std::string metric = {};
  std::vector<data::Rung> rungs = {};
};

/// A configuration with which steps up to `until_step` were done, but no later ones.
struct EarlierConfig {
  int64_t until_step = 0;
  std::string yaml = {};
};

/// What a report shows.
struct ReportInput {
  std::string run_name = {};
  Metrics metrics = {};
  std::string config_yaml = {};
  std::vector<EarlierConfig> earlier_configs = {};  ///< by ascending step
  std::vector<ShownFigure> figures = {};
  Ladder ladder = {};
  std::vector<SplitSummary> data = {};
  GraphPicture graphs = {};
};

/// What is recorded of a run: metrics.jsonl, config.yaml and, as far as they exist, figures.json,
/// ladder.json and data.json. ConfigError when the directory holds no run; DataError
/// "file:line: what" when a file does not hold what it should.
ReportInput read_run(const std::string& run_directory);

std::string render_report(const ReportInput&);

/// ladder.json of a run: [{"name": ..., METRIC: 0.38}, ...]. No file: empty. DataError when it does
/// not hold what it should.
Ladder read_ladder(const std::string& path);
std::string ladder_to_json(const Ladder&);

/// Writes report.html beside what is recorded of a run. Errors as of read_run(); ConfigError also
/// where report.html is not ours.
void write_report(const std::string& run_directory);

}  // namespace stipple::trainer
