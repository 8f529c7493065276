// SPDX-License-Identifier: Apache-2.0
// Which fine-tunings `stipple glue` makes, in which order, and the configuration of each.
//
//   DIR/mrpc-3/                run directory of mrpc under seed 3, and glue.json once it is complete
//   DIR/results.{md,csv,json}  what is known so far
//   DIR/predictions/MRPC.tsv   of the seed that is best on validation; submission.zip of all
#pragma once

#include <string>
#include <vector>

#include "trainer/commands/commands.h"
#include "trainer/config/config.h"
#include "trainer/record/glue_results.h"
#include "trainer/record/run_directory.h"

namespace stipple::trainer {

class GluePlan {
 public:
  /// ConfigError for unknown tasks or recipes, for tasks that are not trained, and for keys among the
  /// arguments that are this command's to set.
  GluePlan(const GlueOptions&, const ConfigArguments&);

  const std::string& folder() const { return options_.out; }
  /// In the order of training: where others begin from MNLI's model, that is first.
  const std::vector<data::glue::TaskId>& tasks() const { return tasks_; }
  int64_t seeds_of(data::glue::TaskId) const;
  int64_t epochs_of(data::glue::TaskId) const;
  RunDirectory run(data::glue::TaskId, int64_t seed) const;
  /// Where a complete run keeps its results.
  std::string record(data::glue::TaskId, int64_t seed) const;

  /// What is complete in the folder, by task and seed, whoever asked for it. DataError. For rank 0.
  std::vector<GlueRun> complete_runs() const;

  /// What is the same for all: CONFIG files or recipe/glue, the model that --init names, then key=value.
  /// For rank 0.
  Config base() const;
  /// Of one run. `examples`: of its training split; 0: not known yet, which only steps need. For rank 0.
  Config config(data::glue::TaskId, int64_t seed, int64_t examples) const;

 private:
  std::string begins_from(data::glue::TaskId) const;

  GlueOptions options_;
  ConfigArguments arguments_;
  std::vector<data::glue::TaskId> tasks_;
};

/// ConfigError where a run that was begun there was trained by other settings than it would be now.
void require_same_settings(const RunDirectory&, const Config& now);

/// The tasks on whose files a run of this one is judged, and those whose tests it predicts.
std::vector<data::glue::TaskId> judged_on(data::glue::TaskId);
std::vector<data::glue::TaskId> predicted_by(data::glue::TaskId);

/// Of the files below `dir` that a task is trained and judged on, those that are not there.
std::vector<std::string> missing_files(const std::string& dir, data::glue::TaskId);

}  // namespace stipple::trainer
