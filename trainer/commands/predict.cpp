// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <memory>

#include "core/log.h"
#include "data/glue/benchmark.h"
#include "data/predictions.h"
#include "trainer/commands/commands.h"
#include "trainer/commands/load_parameters.h"
#include "trainer/commands/open_run.h"
#include "trainer/config/user_path.h"
#include "trainer/exit_code.h"
#include "trainer/loop/evaluate.h"
#include "trainer/loop/open_split.h"
#include "trainer/record/named_file.h"

namespace stipple::trainer {
namespace {

/// Overrides under which splits are the published ones.
std::vector<std::string> with_published_splits(std::vector<std::string> overrides) {
  overrides.emplace_back("data.val_fraction=0");
  return overrides;
}

void require_answers(const data::TaskInfo& info, const std::string& run_dir,
                     const PredictOptions& options) {
  STIPPLE_CHECK_AS(ConfigError, info.has_answers(), run_dir, " is a run of data.task=", info.name,
                   ", whose answers have no names; predict takes runs of glue and tsv");
  require_output(expand_path(options.out, "--out"), "--out");
}

/// Numbers of classes may agree where their meanings do not.
void require_trained_for(const OpenedRun& run) {
  const data::DataConfig& trained = run.trained.data;
  const data::DataConfig& asked = run.config.data;
  const bool are_of_glue =
      trained.task == data::TaskKind::kGlue && asked.task == data::TaskKind::kGlue;
  STIPPLE_CHECK_AS(ConfigError,
                   !are_of_glue || data::glue::answers_for(asked.glue.task, trained.glue.task),
                   "data.glue.task: ", run.directory.path(), " was trained for ",
                   data::glue::published(trained.glue.task).name, " and has no answers for ",
                   data::glue::published(asked.glue.task).name);
}

std::unique_ptr<data::Dataset> open_examples(comm::Communicator& communicator,
                                             const data::Task& task,
                                             const PredictOptions& options) {
  if (options.input.empty()) return open_split(communicator, task, options.split);
  std::unique_ptr<data::Dataset> dataset;
  comm::agree(communicator,
              [&] { dataset = task.open_input(expand_path(options.input, "--input")); });
  return dataset;
}

}  // namespace

int predict(comm::Communicator& communicator, const std::string& run_dir,
            const std::vector<std::string>& overrides, const PredictOptions& options) {
  const OpenedRun run = open_run(communicator, run_dir, with_published_splits(overrides));
  const Config& config = run.config;
  const data::TaskInfo& info = run.task->info();
  comm::agree(communicator, [&] {
    require_answers(info, run_dir, options);
    require_trained_for(run);
  });
  const auto dataset = open_examples(communicator, *run.task, options);
  const std::unique_ptr<Replica> replica =
      load_model(communicator, run, config, options.checkpoint).replica;
  const auto never = [] { return false; };
  const EvalResult result =
      evaluate(*replica, communicator, *dataset, info, config, /*seeds=*/1, never).value();
  comm::agree(communicator, [&] {
    if (communicator.rank() != 0) return;
    write_output(expand_path(options.out, "--out"),
                 data::predictions_text(info, result.answers, options.probabilities));
  });
  if (communicator.rank() != 0) return kDone;
  log::info(fmt::format("wrote {}: {} predictions", options.out, result.examples));
  if (!result.sameness.empty()) log::warn(result.sameness);
  return kDone;
}

}  // namespace stipple::trainer
