// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/glue_results.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/json.h"
#include "data/glue/recipe.h"
#include "data/glue/score.h"

namespace stipple::trainer {
namespace {

using data::glue::kTrainedTasks;
using data::glue::published;
using data::glue::TaskId;

TaskId task_named(const std::string& name) {
  for (const data::glue::Published& task : data::glue::all_published())
    if (task.name == name) return task.id;
  throw DataError(fmt::format("'{}' is no task of GLUE", name));
}

Json json_of(const GlueRun& run) {
  Json json{{"task", published(run.task).name},
            {"seed", run.seed},
            {"steps", run.steps},
            {"best_step", run.best_step},
            {"validation", run.validation}};
  Json& measures = json["measures"] = Json::array();
  for (const GlueMeasure& m : run.measures)
    measures.push_back(
        {{"task", published(m.task).name}, {"measure", m.measure}, {"value", m.value}});
  Json& alarms = json["alarms"] = Json::array();
  for (const std::string& alarm : run.alarms) alarms.push_back(alarm);
  return json;
}

/// null: there was nothing to divide by.
double number_at(const Json& json, const char* key) {
  const Json& value = json.at(key);
  return value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>();
}

GlueRun run_of(const Json& json) {
  GlueRun run{.task = task_named(json.at("task")),
              .seed = json.at("seed"),
              .steps = json.at("steps"),
              .best_step = json.at("best_step"),
              .validation = number_at(json, "validation")};
  for (const Json& m : json.at("measures"))
    run.measures.push_back({task_named(m.at("task")), m.at("measure"), number_at(m, "value")});
  for (const Json& alarm : json.at("alarms")) run.alarms.push_back(alarm);
  return run;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  const size_t n = values.size();
  return (values[(n - 1) / 2] + values[n / 2]) / 2;
}

/// Correlations and shares are told times 100, as GLUE's tables have them.
double in_table(const data::Metric& metric, double value) {
  return metric.less_is_better ? value : 100 * value;
}

struct GlueScores {
  std::vector<TaskId> present = {};
  double of_nine, without_wnli, of_present;
};

GlueScores scores_of(const std::vector<GlueRow>& rows) {
  const auto measure_of = [&](TaskId task, std::string_view measure) {
    const auto row = std::ranges::find_if(
        rows, [&](const GlueRow& r) { return r.task == task && r.metric.name == measure; });
    return row == rows.end() ? std::numeric_limits<double>::quiet_NaN() : 100 * row->median;
  };
  GlueScores scores{};
  std::vector<TaskId> eight;
  for (const TaskId task : kTrainedTasks) {
    if (task != TaskId::kWnli) eight.push_back(task);
    if (!std::isnan(data::glue::task_score(task, measure_of))) scores.present.push_back(task);
  }
  scores.of_nine = data::glue::score_of(kTrainedTasks, measure_of);
  scores.without_wnli = data::glue::score_of(eight, measure_of);
  scores.of_present = data::glue::score_of(scores.present, measure_of);
  return scores;
}

std::string score_text(const GlueScores& scores) {
  if (!std::isnan(scores.of_nine)) {
    return fmt::format("GLUE's score, the mean of nine tasks: {:.1f}; without WNLI: {:.1f}.\n",
                       scores.of_nine, scores.without_wnli);
  }
  std::vector<std::string_view> names;
  for (const TaskId task : scores.present) names.push_back(published(task).name);
  std::string text =
      names.empty()
          ? std::string("No task is complete yet.\n")
          : fmt::format("The mean of {} of nine tasks ({}): {:.1f}; GLUE's score is of all.\n",
                        names.size(), fmt::join(names, ", "), scores.of_present);
  if (!std::isnan(scores.without_wnli))
    text += fmt::format("Without WNLI, as many papers count: {:.1f}.\n", scores.without_wnli);
  return text;
}

std::vector<std::string> alarms_of(std::span<const GlueRun> runs) {
  std::vector<std::string> alarms;
  for (const GlueRun& run : runs)
    for (const std::string& alarm : run.alarms)
      alarms.push_back(fmt::format("{}, seed {}: {}", published(run.task).name, run.seed, alarm));
  return alarms;
}

}  // namespace

std::string glue_run_to_json(const GlueRun& run) { return json_of(run).dump(1) + "\n"; }

GlueRun glue_run_from_json(const std::string& text, const std::string& name) {
  try {
    return run_of(Json::parse(text));
  } catch (const Error& e) {
    throw DataError(fmt::format("{}: {}", name, e.what()));
  }
}

std::vector<GlueRow> glue_rows(std::span<const GlueRun> runs) {
  std::vector<GlueRow> rows;
  for (const data::glue::Published& task : data::glue::all_published()) {
    for (const data::Metric& metric : data::glue::metrics_of(task.id)) {
      std::vector<double> values;
      for (const GlueRun& run : runs)
        for (const GlueMeasure& m : run.measures)
          if (m.task == task.id && m.measure == metric.name) values.push_back(m.value);
      if (values.empty()) continue;
      const auto [lowest, highest] = std::ranges::minmax(values);
      rows.push_back(
          {task.id, metric, median(values), lowest, highest, static_cast<int64_t>(values.size())});
    }
  }
  return rows;
}

const GlueRun* best_glue_run(std::span<const GlueRun> runs, TaskId task) {
  const GlueRun* best = nullptr;
  for (const GlueRun& run : runs)
    if (run.task == task && (best == nullptr || run.validation > best->validation)) best = &run;
  return best;
}

std::string glue_markdown(std::span<const GlueRun> runs, const std::string& measured_on) {
  const std::vector<GlueRow> rows = glue_rows(runs);
  std::string text = fmt::format("Measured on {}, by the best epoch of each run.\n\n", measured_on);
  text += "| task | measure | median | lowest | highest | seeds |\n|---|---|---|---|---|---|\n";
  for (const GlueRow& row : rows) {
    text +=
        fmt::format("| {} | {} | {:.1f} | {:.1f} | {:.1f} | {} |\n", published(row.task).name,
                    row.metric.name, in_table(row.metric, row.median),
                    in_table(row.metric, row.lowest), in_table(row.metric, row.highest), row.seeds);
  }
  text += "\n" + score_text(scores_of(rows));
  for (const std::string& alarm : alarms_of(runs)) text += fmt::format("Alarm: {}\n", alarm);
  return text;
}

std::string glue_csv(std::span<const GlueRun> runs) {
  std::string csv = "task,measure,median,lowest,highest,seeds\n";
  for (const GlueRow& row : glue_rows(runs))
    csv += fmt::format("{},{},{},{},{},{}\n", published(row.task).name, row.metric.name, row.median,
                       row.lowest, row.highest, row.seeds);
  return csv;
}

std::string glue_json(std::span<const GlueRun> runs, const std::string& measured_on) {
  const std::vector<GlueRow> rows = glue_rows(runs);
  const GlueScores scores = scores_of(rows);
  Json json{{"measured_on", measured_on},
            {"score", scores.of_nine},
            {"score_without_wnli", scores.without_wnli},
            {"mean_of_present", scores.of_present}};
  Json& table = json["rows"] = Json::array();
  for (const GlueRow& row : rows)
    table.push_back({{"task", published(row.task).name},
                     {"measure", row.metric.name},
                     {"median", row.median},
                     {"lowest", row.lowest},
                     {"highest", row.highest},
                     {"seeds", row.seeds}});
  Json& all = json["runs"] = Json::array();
  for (const GlueRun& run : runs) all.push_back(json_of(run));
  return json.dump(1) + "\n";
}

}  // namespace stipple::trainer
