// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <cstdio>
#include <limits>

#include "core/log.h"
#include "data/task_config.h"
#include "trainer/commands/chosen_checkpoint.h"
#include "trainer/commands/commands.h"
#include "trainer/commands/dump_graphs.h"
#include "trainer/commands/load_parameters.h"
#include "trainer/commands/open_run.h"
#include "trainer/exit_code.h"
#include "trainer/loop/evaluate.h"
#include "trainer/loop/graph_sample.h"
#include "trainer/loop/open_split.h"
#include "trainer/record/run_directory.h"

namespace stipple::trainer {
namespace {

/// Of published tests, some have none.
void require_labels(const data::Dataset& dataset, const data::TaskInfo& info, data::Split split) {
  for (int64_t i = 0; i < dataset.size(); ++i) {
    if (dataset.num_labels({.example = i}) > 0) return;
  }
  throw ConfigError(fmt::format(
      "the split '{}' of {} has no labels to evaluate by; `stipple predict` writes what the model "
      "says of it",
      data::split_name(split), info.name));
}

void print(const EvalResult& result, const EvalRecord& record,
           const std::vector<ShownFigure>& shown, const Ladder& ladder) {
  fmt::print("step         {}\n", record.step);
  fmt::print("split        {}, {} examples\n", record.split, result.examples);
  if (!record.is_plain()) fmt::print("overrides    {}\n", fmt::join(record.overrides, " "));
  fmt::print("loss         {:.4f}\n", result.loss);
  for (const ShownFigure& figure : shown) {
    const double value = value_of(record.values, figure.name);
    const bool is_first = figure.name == ladder.metric;
    if (const auto profile = values_of(record.profiles, figure.name); !profile.empty())
      fmt::print("{:<12} {:.3f}, {}\n", figure.name, fmt::join(profile, " "), figure.unit);
    if (!figure.is_metric && !std::isfinite(value)) continue;
    fmt::print("{:<12} {}\n", figure.name,
               is_first ? data::place_on_ladder(value, figure.is_share, ladder.rungs)
                        : data::metric_text(value, figure.is_share, 2));
    if (!is_first) continue;
    const size_t seeds = result.seed_metrics.front().second.size();
    if (seeds < 2) continue;
    fmt::print("spread       {} over {} sampling seeds\n",
               figure.is_share ? fmt::format("{:.2f} points", 100 * result.spread())
                               : data::metric_text(result.spread(), false),
               seeds);
  }
  if (!result.sameness.empty()) fmt::print("alarm        {}\n", result.sameness);
  fmt::print("speed        {:.0f} examples/s\n", record.examples_per_s);
}

/// Adds the result to the run's metrics and report. What was printed is not lost where that cannot
/// be: a training job holds the run, or nothing may be written to it.
void keep(const RunDirectory& directory, const EvalRecord& record) {
  try {
    const RunLock lock(directory);
    MetricsWriter(directory.metrics(), std::numeric_limits<int64_t>::max()).write(record);
    write_report(directory.path());
  } catch (const ConfigError& e) {
    log::info(fmt::format("the result is not added to the run's metrics and report: {}", e.what()));
  }
}

}  // namespace

int eval(comm::Communicator& communicator, const std::string& run_dir,
         const std::vector<std::string>& overrides, const std::string& checkpoint,
         std::optional<int64_t> graphs) {
  const OpenedRun run = open_run(communicator, run_dir, overrides);
  const RunDirectory& directory = run.directory;
  const Config& config = run.config;
  const data::Task* task = run.task.get();
  const auto dataset = open_split(communicator, *task, config.eval.split);
  comm::agree(communicator, [&] { require_labels(*dataset, task->info(), config.eval.split); });
  const auto [replica, meta] = load_model(communicator, run, config, checkpoint);
  std::vector<std::string> overridden;
  comm::agree(communicator, [&] {
    if (communicator.rank() != 0) return;
    overridden = overridden_keys(run);
    // The run's own evaluation of that step, if there is one, stays the one that counts.
    if (checkpoint != kNewestCheckpoint)
      overridden.push_back(fmt::format("checkpoint={}", checkpoint));
    require_same_data(meta, run, config.eval.split, *dataset);
    if (graphs) require_dump(directory, config, task->info(), *dataset, *graphs);
  });
  const auto never = [] { return false; };
  EvalResult result =
      evaluate(*replica, communicator, *dataset, task->info(), config, config.eval.seeds, never)
          .value();
  if (communicator.rank() != 0) return kDone;
  if (has_graphs(config))
    result.add(sample_graphs(*replica, *dataset, task->info(), config).layers);
  EvalRecord record = eval_record(result, meta.step, data::split_name(config.eval.split));
  record.overrides = std::move(overridden);
  print(result, record, shown_figures(config, task->info(), replica->facts()),
        ladder_of(*task, *dataset));
  keep(directory, record);
  if (graphs)
    fmt::print("graphs       {}\n", dump_graphs(directory, config, task->info(), *dataset, *replica,
                                                *graphs, meta.step, record.overrides));
  return kDone;
}

}  // namespace stipple::trainer
