// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/sweep_record.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "trainer/record/page.h"
#include "trainer/record/svg_chart.h"

namespace stipple::trainer {
namespace {

using Value = std::function<double(const SweepPoint&)>;

bool is_beaten(const SweepPoint& point, const std::vector<SweepPoint>& others) {
  return std::any_of(others.begin(), others.end(), [&](const SweepPoint& other) {
    return other.density <= point.density && other.recall >= point.recall &&
           (other.density < point.density || other.recall > point.recall);
  });
}

/// A line for each predictor, over sparsity, and points of the frontier.
Chart chart(const Sweep& sweep, const std::string& title, const std::string& unit, bool is_share,
            const Value& value) {
  Chart chart{.title = title, .unit = unit, .x_label = "sparsity", .percent = is_share};
  const auto sorted = [](Series series) {
    std::sort(series.points.begin(), series.points.end(),
              [](const Point& a, const Point& b) { return a.x < b.x; });
    return series;
  };
  const std::vector<bool> frontier = on_frontier(sweep);
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
    own->points.push_back({point.sparsity(), value(point)});
    if (frontier[i]) best.points.push_back(own->points.back());
  }
  chart.series.push_back(best);
  for (Series& series : chart.series) series = sorted(series);
  return chart;
}

std::string table(const Sweep& sweep) {
  const std::vector<bool> frontier = on_frontier(sweep);
  std::string html =
      "<table><tr><th>predictor</th><th>setting</th><th>window</th><th>density</th><th>recall</th>"
      "<th>precision</th><th>exact</th><th>dropped mass</th><th>loss</th><th>" +
      escape_html(sweep.metric) + "</th><th>frontier</th></tr>\n";
  for (size_t i = 0; i < sweep.points.size(); ++i) {
    const SweepPoint& p = sweep.points[i];
    html +=
        fmt::format("<tr><td>{}</td><td>{}</td>", escape_html(p.predictor), escape_html(p.setting));
    for (const std::string& text :
         {fmt::format("{}", p.window), fmt::format("{:.4f}", p.density),
          fmt::format("{:.4f}", p.recall), fmt::format("{:.4f}", p.precision),
          fmt::format("{:.4f}", p.exact), fmt::format("{:.4f}", p.dropped_mass),
          fmt::format("{:.4f}", p.loss), fmt::format("{:.4f}", p.metric),
          std::string(frontier[i] ? "yes" : "")})
      html += "<td class=\"number\">" + text + "</td>";
    html += "</tr>\n";
  }
  return html + "</table>\n";
}

}  // namespace

std::vector<bool> on_frontier(const Sweep& sweep) {
  std::vector<bool> is_best;
  for (const SweepPoint& point : sweep.points) is_best.push_back(!is_beaten(point, sweep.points));
  return is_best;
}

std::string sweep_csv(const Sweep& sweep) {
  const std::vector<bool> frontier = on_frontier(sweep);
  std::string csv = fmt::format(
      "predictor,setting,window,density,sparsity,recall,precision,exact,dropped_mass,loss,{},"
      "frontier\n",
      sweep.metric);
  for (size_t i = 0; i < sweep.points.size(); ++i) {
    const SweepPoint& p = sweep.points[i];
    csv += fmt::format("{},{},{},{},{},{},{},{},{},{},{},{}\n", p.predictor, p.setting, p.window,
                       p.density, p.sparsity(), p.recall, p.precision, p.exact, p.dropped_mass,
                       p.loss, p.metric, frontier[i] ? 1 : 0);
  }
  return csv;
}

std::string sweep_page(const Sweep& sweep, const std::string& run_name) {
  Chart metric = chart(sweep, sweep.metric, sweep.falls ? "lower is better" : "", sweep.is_share,
                       [](const SweepPoint& p) { return p.metric; });
  metric.references = {{"exact attention", sweep.exact_metric}};
  const std::string body = draw(std::vector<ChartSection>{
                               {"Sparsity against what it costs",
                                {chart(sweep, "Recall", "share of the exact support", true,
                                       [](const SweepPoint& p) { return p.recall; }),
                                 chart(sweep, "Dropped mass", "share of exact attention", true,
                                       [](const SweepPoint& p) { return p.dropped_mass; }),
                                 metric}}}) +
                           "<h2>All</h2>\n" + table(sweep);
  return html_page(run_name, "Predicted graphs beside exact entmax attention", body);
}

}  // namespace stipple::trainer
