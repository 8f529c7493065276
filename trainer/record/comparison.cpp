// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "core/error.h"
#include "trainer/config/config_text.h"
#include "trainer/record/curves.h"
#include "trainer/record/named_file.h"
#include "trainer/record/page.h"
#include "trainer/record/run_directory.h"
#include "trainer/record/svg_chart.h"

namespace stipple::trainer {
namespace {

using Runs = std::vector<ReportInput>;

/// Of all runs, each once.
std::vector<ShownFigure> all_figures(const Runs& runs) {
  std::vector<ShownFigure> all;
  for (const ReportInput& run : runs) {
    for (const ShownFigure& figure : figures_of(run.metrics, run.figures)) {
      const auto same = [&](const ShownFigure& f) { return f.name == figure.name; };
      if (std::none_of(all.begin(), all.end(), same)) all.push_back(figure);
    }
  }
  return all;
}

// --- tables --------------------------------------------------------------------------------------

std::string cell(const std::string& text) {
  return "<td class=\"number\">" + escape_html(text) + "</td>";
}

std::string number_cell(double value, const ShownFigure& figure) {
  return cell(std::isfinite(value) ? shown(value, figure) : "");
}

/// One row per run: where its curve goes, the last evaluation, speed.
std::string result_table(const Runs& runs, const std::vector<ShownFigure>& figures) {
  std::vector<ShownFigure> columns;
  for (const ShownFigure& figure : figures) {
    const bool is_known = std::any_of(runs.begin(), runs.end(), [&](const ReportInput& run) {
      const auto result = final_evaluation(run.metrics);
      return result && std::isfinite(value_of(result->values, figure.name));
    });
    if (is_known) columns.push_back(figure);
  }
  std::string html = "<table><tr><th>run</th><th>evaluated</th>";
  for (const ShownFigure& f : columns) html += "<th>" + escape_html(f.name) + "</th>";
  html += "<th>loss</th><th>steps</th><th>examples/s</th><th>ms per step</th></tr>\n";
  for (size_t i = 0; i < runs.size(); ++i) {
    const Metrics& m = runs[i].metrics;
    const EvalRecord result = final_evaluation(m).value_or(EvalRecord{.loss = std::nan("")});
    const std::string evaluated =
        result.split.empty() ? "" : fmt::format("{} at step {}", result.split, result.step);
    html += fmt::format("<tr><td><i class=\"swatch b{}\"></i> {}</td><td>{}</td>", i,
                        escape_html(runs[i].run_name), escape_html(evaluated));
    for (const ShownFigure& f : columns) html += number_cell(value_of(result.values, f.name), f);
    html += number_cell(result.loss, {});
    html += cell(m.train.empty() ? "" : fmt::format("{}", m.train.back().step));
    html += number_cell(median_of(m.train, [](const auto& r) { return r.examples_per_s; }), {});
    html += number_cell(median_of(m.train, [](const auto& r) { return r.seconds.step * 1e3; }), {});
    html += "</tr>\n";
  }
  return html + "</table>\n";
}

/// One row per key that is not the same in all runs.
std::string difference_table(const Runs& runs) {
  std::vector<std::string> keys;
  std::vector<std::map<std::string, std::string>> values;
  for (const ReportInput& run : runs) {
    const auto pairs = flatten_config(run.config_yaml);
    for (const auto& [key, value] : pairs)
      if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
    values.emplace_back(pairs.begin(), pairs.end());
  }
  const auto value_in = [&](size_t run, const std::string& key) {
    const auto found = values[run].find(key);
    return found == values[run].end() ? std::string() : found->second;
  };
  std::string rows;
  for (const std::string& key : keys) {
    bool differs = false;
    for (size_t i = 1; i < runs.size(); ++i) differs |= value_in(i, key) != value_in(0, key);
    if (!differs || key == "run.dir") continue;
    rows += "<tr><td>" + escape_html(key) + "</td>";
    for (size_t i = 0; i < runs.size(); ++i)
      rows += "<td><code>" + escape_html(value_in(i, key)) + "</code></td>";
    rows += "</tr>\n";
  }
  if (rows.empty()) return "<p class=\"sub\">All keys are the same.</p>\n";
  std::string header = "<tr><th>key</th>";
  for (const ReportInput& run : runs) header += "<th>" + escape_html(run.run_name) + "</th>";
  return "<table>" + header + "</tr>\n" + rows + "</table>\n";
}

// --- curves --------------------------------------------------------------------------------------

/// A curve of each run that has one; a chart without any is left out.
void add_overlay(std::vector<Chart>& charts, Chart chart, const Runs& runs,
                 const std::function<Series(const ReportInput&, int color)>& curve) {
  for (size_t i = 0; i < runs.size(); ++i) {
    Series s = curve(runs[i], static_cast<int>(i));
    if (std::any_of(s.points.begin(), s.points.end(),
                    [](const Point& p) { return std::isfinite(p.y); }))
      chart.series.push_back(std::move(s));
  }
  if (!chart.series.empty()) charts.push_back(std::move(chart));
}

void add_training(std::vector<Chart>& charts, Chart chart, const Runs& runs,
                  const TrainValue& value) {
  add_overlay(charts, std::move(chart), runs, [&](const ReportInput& run, int color) {
    return smoothed(train_series(run.run_name, run.metrics.train, color, value));
  });
}

void add_validation(std::vector<Chart>& charts, Chart chart, const Runs& runs,
                    const EvalValue& value) {
  add_overlay(charts, std::move(chart), runs, [&](const ReportInput& run, int color) {
    return evaluation_series(run.run_name, run.metrics.eval, "val", color, value);
  });
}

/// The result of each run by where labels stand.
void add_profile(std::vector<Chart>& charts, const Runs& runs, const ShownFigure& profile) {
  add_overlay(charts,
              {.title = profile.title, .unit = profile.unit, .x_label = "place in the block"}, runs,
              [&](const ReportInput& run, int color) {
                const EvalRecord result = final_evaluation(run.metrics).value_or(EvalRecord{});
                return profile_series(run.run_name, result, profile.name, color);
              });
}

std::vector<Chart> learning_charts(const Runs& runs) {
  std::vector<Chart> charts;
  const auto loss = [](const auto& r) { return r.loss; };
  add_training(charts, {.title = "Train loss", .unit = "nats, smoothed"}, runs, loss);
  add_validation(charts, {.title = "Validation loss", .unit = "nats"}, runs, loss);
  for (const ShownFigure& f : all_figures(runs)) {
    const auto value = [&](const auto& r) { return value_of(r.values, f.name); };
    const std::string unit = f.is_share && f.unit.empty() ? "%" : f.unit;
    add_training(charts, {.title = "Train: " + f.title, .unit = unit, .percent = f.is_share}, runs,
                 value);
    add_validation(charts, {.title = "Validation: " + f.title, .unit = unit, .percent = f.is_share},
                   runs, value);
    add_profile(charts, runs, f);
  }
  add_overlay(charts, {.title = "Learning rate", .from_zero = true}, runs,
              [](const ReportInput& run, int color) {
                return train_series(run.run_name, run.metrics.train, color,
                                    [](const auto& r) { return r.learning_rate; });
              });
  return charts;
}

std::vector<Chart> speed_charts(const Runs& runs) {
  std::vector<Chart> charts;
  add_training(charts, {.title = "Throughput", .unit = "examples/s, smoothed", .from_zero = true},
               runs, [](const auto& r) { return r.examples_per_s; });
  return charts;
}

/// The last folder's name, or the path as it was given where two runs have the same.
void name_runs(Runs& runs, const std::vector<std::string>& paths) {
  for (size_t i = 0; i < runs.size(); ++i) {
    const auto same = [&](const ReportInput& run) { return run.run_name == runs[i].run_name; };
    if (std::count_if(runs.begin(), runs.end(), same) < 2) continue;
    const std::string name = runs[i].run_name;
    for (size_t k = i; k < runs.size(); ++k)
      if (runs[k].run_name == name) runs[k].run_name = paths[k];
  }
}

}  // namespace

std::vector<ChartSection> comparison_charts(const std::vector<ReportInput>& runs) {
  return {{"Learning", learning_charts(runs)}, {"Speed", speed_charts(runs)}};
}

std::string render_comparison(const std::vector<ReportInput>& runs) {
  return html_page("Comparison of " + count(runs.size(), "run"), "Results of the last evaluations",
                   result_table(runs, all_figures(runs)) + "<h2>What differs</h2>\n" +
                       difference_table(runs) + draw(comparison_charts(runs)));
}

void write_comparison(const std::vector<std::string>& run_directories, const std::string& path) {
  STIPPLE_CHECK_AS(ConfigError, run_directories.size() <= kMaxComparedRuns, run_directories.size(),
                   " runs; a comparison shows at most ", kMaxComparedRuns);
  require_own_page(path);
  Runs runs;
  for (const std::string& directory : run_directories) runs.push_back(read_run(directory));
  name_runs(runs, run_directories);
  write_output(path, render_comparison(runs));
}

}  // namespace stipple::trainer
