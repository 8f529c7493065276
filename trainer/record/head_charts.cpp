// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/head_charts.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>

#include "trainer/record/curves.h"

namespace stipple::trainer {
namespace {

// More curves than this in one chart cannot be told apart; a heat map takes over.
constexpr size_t kMaxCurves = 8;

struct Layers {
  double step = 0;
  const std::vector<LayerRecord>* layers = nullptr;
};

/// Empty where the layer does not have the figure.
std::vector<double> heads_of(const LayerRecord& layer, const std::string& figure) {
  for (const auto& [name, values] : layer) {
    if (name == figure) return values;
  }
  return {};
}

/// One curve per layer and head; a head that some records lack has gaps there.
std::vector<Series> head_series(const std::vector<Layers>& records, const std::string& figure) {
  std::map<std::pair<size_t, size_t>, Series> by_head;
  for (size_t i = 0; i < records.size(); ++i) {
    for (size_t layer = 0; layer < records[i].layers->size(); ++layer) {
      const std::vector<double> heads = heads_of((*records[i].layers)[layer], figure);
      for (size_t head = 0; head < heads.size(); ++head) {
        Series& s = by_head[{layer, head}];
        for (size_t k = s.points.size(); k < records.size(); ++k)
          s.points.push_back({records[k].step, std::numeric_limits<double>::quiet_NaN()});
        s.points[i].y = heads[head];
      }
    }
  }
  int color = 0;
  std::vector<Series> series;
  for (auto& [key, s] : by_head) {
    s.name = fmt::format("L{} H{}", key.first, key.second);
    s.color = color++;
    series.push_back(std::move(s));
  }
  return series;
}

std::vector<Series> head_series(const Metrics& m, const std::string& figure) {
  std::vector<Layers> training, validation;
  for (const TrainRecord& r : m.train) training.push_back({step_of(r), &r.layers});
  for (const EvalRecord& r : m.eval)
    if (r.is_plain() && r.split == "val") validation.push_back({step_of(r), &r.layers});
  std::vector<Series> series = head_series(training, figure);
  if (!series.empty()) return series;
  series = head_series(validation, figure);
  for (Series& s : series) s.markers = true;
  return series;
}

const ShownFigure* find(const std::vector<ShownFigure>& figures, const std::string& name) {
  for (const ShownFigure& f : figures)
    if (f.name == name) return &f;
  return nullptr;
}

Chart chart_of(const ShownFigure& figure, std::vector<Series> series) {
  return {.title = figure.title + " per layer and head",
          .unit = figure.unit,
          .series = std::move(series),
          .percent = figure.is_share};
}

}  // namespace

bool is_baseline(const ShownFigure& figure, const std::vector<ShownFigure>& figures) {
  return std::any_of(figures.begin(), figures.end(),
                     [&](const ShownFigure& f) { return f.baseline == figure.name; });
}

std::vector<Chart> head_charts(const Metrics& m, const ShownFigure& figure,
                               const std::vector<ShownFigure>& all) {
  Chart chart = chart_of(figure, head_series(m, figure.name));
  if (chart.series.empty()) return {};
  const ShownFigure* const baseline = find(all, figure.baseline);
  std::vector<Series> behind;
  if (baseline != nullptr) behind = head_series(m, baseline->name);
  if (chart.series.size() > kMaxCurves) {
    std::vector<Chart> charts{std::move(chart)};
    if (!behind.empty()) charts.push_back(chart_of(*baseline, std::move(behind)));
    for (Chart& c : charts) c.kind = ChartKind::kHeatMap;
    return charts;
  }
  if (behind.empty()) return {chart};
  chart.unit += ", faint: " + baseline->unit;
  for (Series& s : behind) {
    s.faint = true;
    chart.series.push_back(std::move(s));
  }
  return {chart};
}

}  // namespace stipple::trainer
