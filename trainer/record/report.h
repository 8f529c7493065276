// SPDX-License-Identifier: Apache-2.0
// report.html in a run directory: one self-contained page with the run's result, curves, step-time
// split and configuration. It opens without a network and needs no script.
#pragma once

#include <string>
#include <vector>

#include "trainer/record/metrics.h"

namespace stipple::trainer {

/// A published or earlier result to compare with; `accuracy` is a share of 1.
struct LadderRung {
  std::string name = {};
  double accuracy = 0;
};

/// What a report shows.
struct ReportInput {
  std::string run_name = {};
  Metrics metrics = {};
  std::string config_yaml = {};
  std::vector<LadderRung> ladder = {};
};

std::string render_report(const ReportInput&);

/// ladder.json of a run; no file: empty. DataError when it does not hold what it should.
std::vector<LadderRung> read_ladder(const std::string& path);

/// Reads metrics.jsonl, config.yaml and ladder.json ([{"name": ..., "accuracy": 0.38}, ...]) of a
/// run, as far as they exist, and writes report.html beside them. ConfigError when there is no such
/// directory; DataError "file:line: what" when a file does not hold what it should.
void write_report(const std::string& run_directory);

}  // namespace stipple::trainer
