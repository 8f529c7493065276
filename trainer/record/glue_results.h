// SPDX-License-Identifier: Apache-2.0
// What `stipple glue` found: a record of each fine-tuning that is complete, and of all of them medians,
// spread and the score, as a table for people (Markdown), for spreadsheets (CSV) and for programs (JSON).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/glue/benchmark.h"

namespace stipple::trainer {

struct GlueMeasure {
  data::glue::TaskId task = {};  ///< whose files it was taken on: of MNLI's runs, both
  std::string measure = {};      ///< Metric::name
  double value = 0;              ///< as the measure is: 0.84, not 84
};

/// One task under one seed, complete.
struct GlueRun {
  data::glue::TaskId task = {};
  int64_t seed = 0;
  int64_t steps = 0;
  int64_t best_step = 0;  ///< its best checkpoint's
  double validation = 0;  ///< the first measure there, by which seeds are chosen
  std::vector<GlueMeasure> measures = {};
  /// What is alarming about answers: a model that says the same of every example.
  std::vector<std::string> alarms = {};
};

std::string glue_run_to_json(const GlueRun&);
/// DataError, with `name`, for what is no such record.
GlueRun glue_run_from_json(const std::string& text, const std::string& name);

struct GlueRow {
  data::glue::TaskId task = {};
  data::Metric metric = {};
  double median = 0, lowest = 0, highest = 0;
  int64_t seeds = 0;
};

/// A row for each measure that was taken, in the benchmark's order.
std::vector<GlueRow> glue_rows(std::span<const GlueRun>);

/// The run of a task that was best on validation, the first of equal ones; nullptr: there is none.
const GlueRun* best_glue_run(std::span<const GlueRun>, data::glue::TaskId);

/// `measured_on`: "dev", in words of a person. Scores are of medians, times 100.
std::string glue_markdown(std::span<const GlueRun>, const std::string& measured_on);
std::string glue_csv(std::span<const GlueRun>);
std::string glue_json(std::span<const GlueRun>, const std::string& measured_on);

}  // namespace stipple::trainer
