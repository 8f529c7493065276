// SPDX-License-Identifier: Apache-2.0
// Where a run stands, from its files alone: whether it goes on, on whatever machine, or has ended.
//
//   std::fputs(status_text(read_status(RunDirectory("runs/x")), unix_time).c_str(), stdout);
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "trainer/record/metrics.h"
#include "trainer/record/run_directory.h"
#include "trainer/record/start_log.h"

namespace stipple::trainer {

struct RunStatus {
  std::string path = {};
  int64_t steps = 0;                        ///< train.steps
  std::optional<TrainRecord> trained = {};  ///< the last line of metrics.jsonl
  std::optional<EvalRecord> validated = {};
  double written_at_s = 0;  ///< metrics.jsonl, since 1970
  std::optional<int64_t> saved_step = {};
  double saved_at_s = 0;
  bool is_held = false;  ///< a process holds the run's lock
  /// It was last started on another machine, whose lock may not be seen from here.
  bool is_elsewhere = false;
  std::vector<Start> starts = {};

  int64_t step() const { return trained ? trained->step : 0; }
};

/// ConfigError unless this is the folder of a run; DataError where a file of it is none.
RunStatus read_status(const RunDirectory&);

/// For people: state, step, speed, ETA, last checkpoint, every start and why it ended. `now_s`: since
/// 1970. Times of day are local.
std::string status_text(const RunStatus&, double now_s);

}  // namespace stipple::trainer
