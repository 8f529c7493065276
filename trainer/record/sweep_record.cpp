// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/sweep_record.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "trainer/checkpoint/durable_file.h"
#include "trainer/record/page.h"
#include "trainer/record/svg_chart.h"

namespace stipple::trainer {
namespace {

using Value = std::function<double(const SweepPoint&)>;

constexpr std::string_view kFirstColumns =
    "predictor,setting,window,density,sparsity,recall,precision,exact,dropped_mass,loss,";

double recall_of(const SweepPoint& p) { return p.recall; }
double dropped_mass_of(const SweepPoint& p) { return p.dropped_mass; }
double metric_of(const SweepPoint& p) { return p.metric; }

std::vector<bool> on_recall_frontier(const Sweep& sweep) {
  return on_frontier(sweep.points, recall_of, /*falls=*/false);
}

/// What a chart shows of each point.
struct Shown {
  std::string title, unit;
  bool is_share = false, falls = false;
  Value value;
};

Series sorted(Series series) {
  std::sort(series.points.begin(), series.points.end(),
            [](const Point& a, const Point& b) { return a.x < b.x; });
  return series;
}

/// A line for each predictor, over sparsity, and the frontier.
Chart chart(const Sweep& sweep, const Shown& shown) {
  Chart chart{
      .title = shown.title, .unit = shown.unit, .x_label = "sparsity", .percent = shown.is_share};
  const std::vector<bool> frontier = on_frontier(sweep.points, shown.value, shown.falls);
  Series best{.name = "frontier", .markers = true};
  for (size_t i = 0; i < sweep.points.size(); ++i) {
    const SweepPoint& point = sweep.points[i];
    auto own = std::find_if(chart.series.begin(), chart.series.end(),
                            [&](const Series& s) { return s.name == point.predictor; });
    if (own == chart.series.end()) {
      Series fresh{.name = point.predictor,
                   .color = static_cast<int>(chart.series.size()) + 1,
                   .markers = true};
      own = chart.series.insert(chart.series.end(), fresh);
    }
    own->points.push_back({point.sparsity(), shown.value(point)});
    if (frontier[i]) best.points.push_back(own->points.back());
  }
  chart.series.push_back(best);
  for (Series& series : chart.series) series = sorted(series);
  return chart;
}

std::string table(const Sweep& sweep) {
  const std::vector<bool> frontier = on_recall_frontier(sweep);
  std::string html =
      "<table><tr><th>predictor</th><th>setting</th><th>window</th><th>density</th><th>recall</th>"
      "<th>precision</th><th>exact</th><th>dropped mass</th><th>loss</th><th>" +
      escape_html(sweep.metric.name) + "</th><th>frontier of recall</th></tr>\n";
  const auto add = [&](const SweepPoint& p, bool is_best) {
    html +=
        fmt::format("<tr><td>{}</td><td>{}</td>", escape_html(p.predictor), escape_html(p.setting));
    for (const std::string& text :
         {fmt::format("{}", p.window), fmt::format("{:.4f}", p.density),
          fmt::format("{:.4f}", p.recall), fmt::format("{:.4f}", p.precision),
          fmt::format("{:.4f}", p.exact), fmt::format("{:.4f}", p.dropped_mass),
          fmt::format("{:.4f}", p.loss), fmt::format("{:.4f}", p.metric),
          std::string(is_best ? "yes" : "")})
      html += "<td class=\"number\">" + text + "</td>";
    html += "</tr>\n";
  };
  add(sweep.exact, false);
  for (size_t i = 0; i < sweep.points.size(); ++i) add(sweep.points[i], frontier[i]);
  return html + "</table>\n";
}

}  // namespace

std::vector<bool> on_frontier(const std::vector<SweepPoint>& points, const Value& value,
                              bool falls) {
  const double sign = falls ? -1 : 1;
  const auto is_beaten = [&](const SweepPoint& point) {
    return std::any_of(points.begin(), points.end(), [&](const SweepPoint& other) {
      const double gain = sign * (value(other) - value(point));
      return other.density <= point.density && gain >= 0 &&
             (other.density < point.density || gain > 0);
    });
  };
  std::vector<bool> is_best;
  for (const SweepPoint& point : points) is_best.push_back(!is_beaten(point));
  return is_best;
}

std::string sweep_csv(const Sweep& sweep) {
  const std::vector<bool> frontier = on_recall_frontier(sweep);
  std::string csv = fmt::format("{}{},frontier\n", kFirstColumns, sweep.metric.name);
  const auto add = [&](const SweepPoint& p, bool is_best) {
    csv += fmt::format("{},{},{},{},{},{},{},{},{},{},{},{}\n", p.predictor, p.setting, p.window,
                       p.density, p.sparsity(), p.recall, p.precision, p.exact, p.dropped_mass,
                       p.loss, p.metric, is_best ? 1 : 0);
  };
  add(sweep.exact, false);
  for (size_t i = 0; i < sweep.points.size(); ++i) add(sweep.points[i], frontier[i]);
  return csv;
}

void require_own_sweep(const std::string& csv) {
  constexpr int64_t kMostBytes = 1 << 26;
  if (!path_exists(csv)) return;
  STIPPLE_CHECK_AS(ConfigError, read_text(csv, kMostBytes).starts_with(kFirstColumns), csv,
                   " was not written by `stipple sparsefinder sweep`; move it away");
}

std::string sweep_page(const Sweep& sweep, const std::string& run_name) {
  const data::Metric& judged = sweep.metric;
  Chart metric = chart(sweep, {.title = std::string(judged.title),
                               .unit = judged.less_is_better ? "lower is better" : "",
                               .is_share = judged.is_share,
                               .falls = judged.less_is_better,
                               .value = metric_of});
  metric.references = {{"exact attention", sweep.exact.metric}};
  const Chart recall = chart(sweep, {.title = "Recall",
                                     .unit = "share of the exact support",
                                     .is_share = true,
                                     .value = recall_of});
  const Chart dropped = chart(sweep, {.title = "Dropped mass",
                                      .unit = "share of exact attention",
                                      .is_share = true,
                                      .falls = true,
                                      .value = dropped_mass_of});
  const std::vector<ChartSection> sections = {
      {"Sparsity against what it costs", {recall, dropped, metric}}};
  return html_page(run_name, "Predicted graphs beside exact entmax attention",
                   draw(sections) + "<h2>All</h2>\n" + table(sweep));
}

}  // namespace stipple::trainer
