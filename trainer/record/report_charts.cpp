// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/report_charts.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "trainer/record/curves.h"
#include "trainer/record/head_charts.h"
#include "trainer/record/page.h"

namespace stipple::trainer {
namespace {

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

/// The newest evaluation of each split.
Chart profile_chart(const Metrics& m, const ShownFigure& profile) {
  Chart chart{.title = profile.title, .unit = profile.unit, .x_label = "place in the block"};
  int color = 1;
  for (const std::string& split : evaluated_splits(m.eval)) {
    Series series;
    for (const EvalRecord& r : m.eval)
      if (r.is_plain() && r.split == split) series = profile_series(split, r, profile.name, color);
    ++color;
    if (!series.points.empty()) chart.series.push_back(std::move(series));
  }
  return chart;
}

Chart single_curve(const Metrics& m, Chart chart, const std::string& name, const TrainValue& value,
                   bool smooth) {
  const Series raw = train_series(name, m.train, 0, value);
  if (smooth)
    add_smoothed(chart, raw);
  else
    chart.series.push_back(raw);
  return chart;
}

Chart step_time_chart(const Metrics& m) {
  Chart chart{
      .kind = ChartKind::kStack, .title = "Where a step's time goes", .unit = "ms per step"};
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
  return chart;
}

std::vector<Chart> learning_charts(const ReportInput& input) {
  const Metrics& m = input.metrics;
  std::vector<Chart> charts{loss_chart(m)};
  for (const ShownFigure& f : figures_of(m, input.figures))
    if (f.is_metric) charts.push_back(metric_chart(input, f));
  for (const ShownFigure& f : figures_of(m, input.figures)) {
    Chart chart = profile_chart(m, f);
    if (!chart.series.empty()) charts.push_back(std::move(chart));
  }
  charts.push_back(single_curve(
      m, {.title = "Learning rate", .from_zero = true}, "learning rate",
      [](const auto& r) { return r.learning_rate; }, false));
  charts.push_back(single_curve(
      m, {.title = "Gradient norm", .unit = "before clipping", .from_zero = true},
      "gradient norm (smoothed)", [](const auto& r) { return r.grad_norm; }, true));
  return charts;
}

std::vector<Chart> attention_charts(const ReportInput& input) {
  const Metrics& m = input.metrics;
  std::vector<Chart> charts;
  const std::vector<ShownFigure> figures = figures_of(m, input.figures);
  for (const ShownFigure& f : figures) {
    if (f.is_metric) continue;
    const auto value = [&](const auto& r) { return value_of(r.values, f.name); };
    const bool has_total = std::any_of(m.train.begin(), m.train.end(), [&](const TrainRecord& r) {
      return std::isfinite(value(r));
    });
    if (has_total)
      charts.push_back(single_curve(m,
                                    {.title = f.title,
                                     .unit = f.unit + ", all layers",
                                     .from_zero = true,
                                     .percent = f.is_share},
                                    f.name, value, false));
    if (is_baseline(f, figures)) continue;
    for (Chart& chart : head_charts(m, f, figures)) charts.push_back(std::move(chart));
  }
  return charts;
}

std::vector<Chart> speed_charts(const Metrics& m) {
  return {step_time_chart(m),
          single_curve(
              m, {.title = "Throughput", .unit = "examples/s", .from_zero = true},
              "examples/s (smoothed)", [](const auto& r) { return r.examples_per_s; }, true)};
}

}  // namespace

std::vector<ChartSection> report_charts(const ReportInput& input) {
  std::vector<ChartSection> sections{{"Learning", learning_charts(input)},
                                     {"Attention", attention_charts(input)},
                                     {"Speed", speed_charts(input.metrics)}};
  std::erase_if(sections, [](const ChartSection& s) { return s.charts.empty(); });
  return sections;
}

}  // namespace stipple::trainer
