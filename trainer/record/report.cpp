// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <functional>
#include <optional>

#include "core/error.h"
#include "core/json.h"
#include "trainer/checkpoint/durable_file.h"
#include "trainer/config/resume.h"
#include "trainer/record/curves.h"
#include "trainer/record/head_charts.h"
#include "trainer/record/page.h"
#include "trainer/record/run_directory.h"
#include "trainer/record/svg_chart.h"

namespace stipple::trainer {
namespace {

constexpr int64_t kMaxSideFileBytes = int64_t{16} << 20;

/// The raw curve behind its average; the average alone would hide spikes.
void add_smoothed(Chart& chart, const Series& raw) {
  Series background = raw;
  background.faint = true;
  chart.series.push_back(std::move(background));
  chart.series.push_back(smoothed(raw));
}

void add_evaluations(Chart& chart, const std::vector<EvalRecord>& eval, const EvalValue& value) {
  // The later is drawn on top, and the result of a run, "test", is a single point.
  int color = 1;
  for (const std::string& split : evaluated_splits(eval))
    chart.series.push_back(evaluation_series(split, eval, split, color++, value));
}

Chart loss_chart(const Metrics& m) {
  Chart chart{.title = "Loss", .unit = "nats"};
  add_smoothed(chart,
               train_series("train (smoothed)", m.train, 0, [](const auto& r) { return r.loss; }));
  add_evaluations(chart, m.eval, [](const auto& r) { return r.loss; });
  return chart;
}

Chart metric_chart(const ReportInput& input, const ShownFigure& metric) {
  Chart chart{.title = metric.title,
              .unit = metric.is_share ? "%" : metric.unit,
              .percent = metric.is_share};
  const auto value = [&](const auto& r) { return value_of(r.values, metric.name); };
  add_smoothed(chart, train_series("train (smoothed)", input.metrics.train, 0, value));
  add_evaluations(chart, input.metrics.eval, value);
  if (metric.name != input.ladder.metric) return chart;
  for (const data::Rung& rung : input.ladder.rungs)
    chart.references.push_back(
        {fmt::format("{} {}", rung.name, shown(rung.value, metric)), rung.value});
  return chart;
}

std::string single_curve(const Metrics& m, Chart chart, const std::string& name,
                         const TrainValue& value, bool smooth) {
  const Series raw = train_series(name, m.train, 0, value);
  if (smooth)
    add_smoothed(chart, raw);
  else
    chart.series.push_back(raw);
  return line_chart(chart);
}

std::string step_time_chart(const Metrics& m) {
  Chart chart{.title = "Where a step's time goes", .unit = "ms per step"};
  const std::vector<std::pair<std::string, TrainValue>> parts{
      {"data", [](const auto& r) { return r.seconds.data; }},
      {"forward", [](const auto& r) { return r.seconds.forward; }},
      {"sampling", [](const auto& r) { return r.seconds.sampling; }},
      {"backward", [](const auto& r) { return r.seconds.backward; }},
      {"reduce", [](const auto& r) { return r.seconds.reduce; }},
      {"optimizer", [](const auto& r) { return r.seconds.optimizer; }}};
  constexpr std::array<int, 6> kPartColors{5, 0, 1, 4, 2, 3};
  // A part that was not measured counts as nothing: its time shows as "other".
  const auto known = [](double s) { return std::isfinite(s) ? s : 0.0; };
  const auto rest = [&](const TrainRecord& r) {
    double left = r.seconds.step;
    for (const auto& [name, value] : parts) left -= known(value(r));
    return std::max(0.0, left);
  };
  for (size_t i = 0; i < parts.size(); ++i)
    chart.series.push_back(
        train_series(parts[i].first, m.train, kPartColors[i],
                     [&](const auto& r) { return known(parts[i].second(r)) * 1e3; }));
  chart.series.push_back(
      train_series("other", m.train, 7, [&](const auto& r) { return rest(r) * 1e3; }));
  return stacked_area_chart(chart);
}

// --- result --------------------------------------------------------------------------------------

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

/// Nothing where attention reports nothing.
std::string attention_charts(const ReportInput& input) {
  const Metrics& m = input.metrics;
  std::string html;
  const std::vector<ShownFigure> figures = figures_of(input.metrics, input.figures);
  for (const ShownFigure& f : figures) {
    if (f.is_metric) continue;
    const auto value = [&](const auto& r) { return value_of(r.values, f.name); };
    const bool has_total = std::any_of(m.train.begin(), m.train.end(), [&](const TrainRecord& r) {
      return std::isfinite(value(r));
    });
    if (has_total)
      html += single_curve(m,
                           {.title = f.title,
                            .unit = f.unit + ", all layers",
                            .from_zero = true,
                            .percent = f.is_share},
                           f.name, value, false);
    if (!is_baseline(f, figures)) html += heads_chart(m, f, figures);
  }
  if (html.empty()) return {};
  return "</div>\n<h2>Attention</h2>\n<div class=\"charts\">\n" + html;
}

std::string charts(const ReportInput& input) {
  const Metrics& m = input.metrics;
  std::string html = "<h2>Learning</h2>\n<div class=\"charts\">\n";
  html += line_chart(loss_chart(m));
  for (const ShownFigure& f : figures_of(input.metrics, input.figures))
    if (f.is_metric) html += line_chart(metric_chart(input, f));
  html += single_curve(
      m, {.title = "Learning rate", .from_zero = true}, "learning rate",
      [](const auto& r) { return r.learning_rate; }, false);
  html += single_curve(
      m, {.title = "Gradient norm", .unit = "before clipping", .from_zero = true},
      "gradient norm (smoothed)", [](const auto& r) { return r.grad_norm; }, true);
  html += attention_charts(input);
  html += "</div>\n<h2>Speed</h2>\n<div class=\"charts\">\n";
  html += step_time_chart(m);
  html += single_curve(
      m, {.title = "Throughput", .unit = "examples/s", .from_zero = true}, "examples/s (smoothed)",
      [](const auto& r) { return r.examples_per_s; }, true);
  return html + "</div>\n";
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
                       charts(input) + graph_pictures_html(input.graphs) +
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
