// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>

#include "core/error.h"
#include "core/json.h"
#include "trainer/checkpoint/durable_file.h"
#include "trainer/config/resume.h"
#include "trainer/record/curves.h"
#include "trainer/record/page.h"
#include "trainer/record/report_charts.h"
#include "trainer/record/run_directory.h"
#include "trainer/record/svg_chart.h"

namespace stipple::trainer {
namespace {

constexpr int64_t kMaxSideFileBytes = int64_t{16} << 20;

std::string result_tiles(const EvalRecord& result, const std::vector<ShownFigure>& figures) {
  std::string html;
  for (const ShownFigure& f : figures) {
    if (!f.is_metric) continue;
    std::string label = fmt::format("{} {} at step {}", result.split, f.name, result.step);
    const size_t seeds = result.seed_values.empty() ? 0 : result.seed_values.front().second.size();
    if (html.empty() && seeds > 1)
      label += fmt::format(", {} seeds, spread {}", seeds, shown(result.seed_spread, f));
    html += tile(shown(value_of(result.values, f.name), f), label);
  }
  html += tile(short_number(result.loss), result.split + " loss");
  for (const ShownFigure& f : figures) {
    const double value = value_of(result.values, f.name);
    if (!f.is_metric && std::isfinite(value))
      html += tile(shown(value, f), fmt::format("{} attention {}", result.split, f.name));
  }
  return html;
}

std::string tiles(const ReportInput& input) {
  const Metrics& m = input.metrics;
  std::string html;
  if (const auto result = final_evaluation(m)) {
    html += result_tiles(*result, figures_of(input.metrics, input.figures));
  }
  if (m.train.empty()) return html;
  const TrainRecord& last = m.train.back();
  html += tile(fmt::format("{}", last.step), "steps");
  html += tile(short_number(last.loss), "train loss at the last step");
  html += tile(short_number(median_of(m.train, [](const auto& r) { return r.examples_per_s; })),
               "examples/s, median");
  html += tile(
      short_number(median_of(m.train, [](const auto& r) { return r.seconds.step; }) * 1e3) + " ms",
      "per step, median");
  if (last.skipped > 0) html += tile(fmt::format("{}", last.skipped), "steps skipped by the guard");
  return html;
}

std::string ladder_table(const ReportInput& input) {
  const Ladder& ladder = input.ladder;
  if (ladder.rungs.empty()) return {};
  struct Row {
    data::Rung rung;
    bool is_own;
  };
  std::vector<Row> rows;
  for (const data::Rung& rung : ladder.rungs) rows.push_back({rung, false});
  const auto result = final_evaluation(input.metrics);
  const double own = result ? value_of(result->values, ladder.metric) : 0;
  if (result && std::isfinite(own))
    rows.push_back({{"this run (" + result->split + ")", own}, true});
  std::stable_sort(rows.begin(), rows.end(),
                   [](const Row& a, const Row& b) { return a.rung.value > b.rung.value; });
  ShownFigure metric{.name = ladder.metric, .title = ladder.metric};
  for (const ShownFigure& f : figures_of(input.metrics, input.figures))
    if (f.name == ladder.metric) metric = f;
  std::string html =
      fmt::format("<h2>Where it stands</h2>\n<table><tr><th>result</th><th>{}</th></tr>\n",
                  escape_html(ladder.metric));
  for (const Row& row : rows)
    html += fmt::format("<tr{}><td>{}</td><td class=\"number\">{}</td></tr>\n",
                        row.is_own ? " class=\"own\"" : "", escape_html(row.rung.name),
                        shown(row.rung.value, metric));
  return html + "</table>\n";
}

/// Evaluations of something else than the run as it was trained.
std::string other_evaluations(const ReportInput& input) {
  const std::vector<ShownFigure> figures = figures_of(input.metrics, input.figures);
  std::string rows;
  for (const EvalRecord& r : input.metrics.eval) {
    if (r.is_plain()) continue;
    std::string numbers = "loss " + short_number(r.loss);
    for (const ShownFigure& f : figures) {
      const double value = value_of(r.values, f.name);
      if (std::isfinite(value)) numbers += fmt::format(", {} {}", f.name, shown(value, f));
    }
    rows += fmt::format("<tr><td>{}</td><td>{}</td><td><code>{}</code></td><td>{}</td></tr>\n",
                        r.step, escape_html(r.split),
                        escape_html(fmt::format("{}", fmt::join(r.overrides, " "))),
                        escape_html(numbers));
  }
  if (rows.empty()) return {};
  return "<h2>Evaluated with other settings</h2>\n<table><tr><th>step</th><th>split</th>"
         "<th>settings</th><th>result</th></tr>\n" +
         rows + "</table>\n";
}

/// What was changed between steps, when the run was resumed.
std::string config_changes(const ReportInput& input) {
  std::string rows;
  for (size_t i = 0; i < input.earlier_configs.size(); ++i) {
    const EarlierConfig& earlier = input.earlier_configs[i];
    const bool is_last = i + 1 == input.earlier_configs.size();
    const auto changes = changes_between(
        earlier.yaml, is_last ? input.config_yaml : input.earlier_configs[i + 1].yaml);
    for (const KeyDifference& change : changes.applied)
      rows += fmt::format(
          "<tr><td>{}</td><td>{}</td><td><code>{}</code></td><td><code>{}</code></td></tr>\n",
          earlier.until_step, escape_html(change.key), escape_html(*change.before),
          escape_html(*change.now));
  }
  if (rows.empty()) return {};
  return "<h2>Changed on the way</h2>\n<table><tr><th>after step</th><th>key</th><th>before</th>"
         "<th>from then on</th></tr>\n" +
         rows + "</table>\n";
}

/// One table per top-level section of the configuration.
std::string config_tables(const std::string& yaml) {
  const auto pairs = flatten_config(yaml);
  if (pairs.empty()) return {};
  std::string html = "<h2>Configuration</h2>\n<div class=\"columns\">\n";
  std::string section;
  bool open = false;
  for (const auto& [key, value] : pairs) {
    const size_t dot = key.find('.');
    const std::string top = dot == std::string::npos ? "run" : key.substr(0, dot);
    if (!open || top != section) {
      if (open) html += "</table>\n";
      html += fmt::format("<table><tr><th colspan=\"2\">{}</th></tr>\n", escape_html(top));
      section = top;
      open = true;
    }
    html += fmt::format("<tr><td>{}</td><td><code>{}</code></td></tr>\n",
                        escape_html(dot == std::string::npos ? key : key.substr(dot + 1)),
                        escape_html(value));
  }
  return html + "</table>\n</div>\n";
}

}  // namespace

Ladder read_ladder(const std::string& path) {
  Ladder ladder;
  if (!std::filesystem::exists(path)) return ladder;
  try {
    for (const auto& rung : Json::parse(read_text(path, kMaxSideFileBytes))) {
      for (const auto& [key, value] : rung.members())
        if (value.is_number()) ladder.metric = key;
      ladder.rungs.push_back({rung.at("name"), rung.at(ladder.metric)});
    }
  } catch (const std::exception& e) {
    throw DataError(fmt::format("{}: not a list of {{\"name\", metric}}: {}", path, e.what()));
  }
  return ladder;
}

std::string ladder_to_json(const Ladder& ladder) {
  Json list = Json::array();
  for (const data::Rung& rung : ladder.rungs)
    list.push_back({{"name", rung.name}, {ladder.metric, rung.value}});
  return list.dump(2) + "\n";
}

std::string render_report(const ReportInput& input) {
  const std::string records = count(input.metrics.train.size(), "training record") + ", " +
                              count(input.metrics.eval.size(), "evaluation");
  return html_page(input.run_name, records,
                   "<div class=\"tiles\">\n" + tiles(input) + "</div>\n" + ladder_table(input) +
                       draw(report_charts(input)) + graph_pictures_html(input.graphs) +
                       other_evaluations(input) + data_table(input.data) + config_changes(input) +
                       config_tables(input.config_yaml));
}

ReportInput read_run(const std::string& run_directory) {
  const RunDirectory run(run_directory);
  run.require_run();
  return {.run_name = std::filesystem::canonical(run_directory).filename().string(),
          .metrics = read_metrics(run.metrics()),
          .config_yaml = read_text(run.config(), kMaxSideFileBytes),
          .earlier_configs = run.earlier_configs(),
          .figures = read_figures(run.figures()),
          .ladder = read_ladder(run.ladder()),
          .data = read_data_summary(run.data_summary())};
}

void write_report(const std::string& run_directory) {
  const RunDirectory directory(run_directory);
  const std::string path = directory.report();
  ReportInput run = read_run(run_directory);
  run.graphs = read_graph_picture(directory.graphs());
  require_own_page(path);
  replace_durably(path, render_report(run));
}

}  // namespace stipple::trainer
