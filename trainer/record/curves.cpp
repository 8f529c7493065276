// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/curves.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

namespace stipple::trainer {

double step_of(const TrainRecord& r) { return static_cast<double>(r.step); }
double step_of(const EvalRecord& r) { return static_cast<double>(r.step); }

Series train_series(const std::string& name, const std::vector<TrainRecord>& train, int color,
                    const TrainValue& value) {
  Series s{.name = name, .color = color};
  for (const TrainRecord& r : train) s.points.push_back({step_of(r), value(r)});
  return s;
}

Series evaluation_series(const std::string& name, const std::vector<EvalRecord>& eval,
                         const std::string& split, int color, const EvalValue& value) {
  Series s{.name = name, .color = color, .markers = true};
  for (const EvalRecord& r : eval)
    if (r.is_plain() && r.split == split) s.points.push_back({step_of(r), value(r)});
  return s;
}

Series profile_series(const std::string& name, const EvalRecord& record, const std::string& profile,
                      int color) {
  Series s{.name = name, .color = color, .markers = true};
  for (const double value : values_of(record.profiles, profile))
    s.points.push_back({static_cast<double>(s.points.size() + 1), value});
  return s;
}

Series smoothed(const Series& raw) {
  const double window = std::max(1.0, static_cast<double>(raw.points.size()) / 50);
  const double keep = 1 - 1 / window;
  Series s{.name = raw.name, .color = raw.color};
  double sum = 0;
  double weight = 0;
  for (const Point& p : raw.points) {
    if (std::isfinite(p.y)) {
      sum = keep * sum + (1 - keep) * p.y;
      weight = keep * weight + (1 - keep);
    }
    s.points.push_back({p.x, std::isfinite(p.y) ? sum / weight : p.y});
  }
  return s;
}

std::vector<std::string> evaluated_splits(const std::vector<EvalRecord>& eval) {
  std::set<std::string, std::greater<>> splits;
  for (const EvalRecord& r : eval)
    if (r.is_plain()) splits.insert(r.split);
  return {splits.begin(), splits.end()};
}

std::optional<EvalRecord> final_evaluation(const Metrics& m) {
  std::optional<EvalRecord> last;
  for (const EvalRecord& r : m.eval)
    if (r.is_plain() && (!last || r.split == "test" || last->split != "test")) last = r;
  return last;
}

double median_of(const std::vector<TrainRecord>& train, const TrainValue& value) {
  std::vector<double> values;
  for (const TrainRecord& r : train) values.push_back(value(r));
  std::erase_if(values, [](double v) { return !std::isfinite(v); });
  if (values.empty()) return std::numeric_limits<double>::quiet_NaN();
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

std::vector<ShownFigure> figures_of(const Metrics& metrics,
                                    const std::vector<ShownFigure>& declared) {
  if (!declared.empty()) return declared;
  std::vector<ShownFigure> figures;
  const auto add = [&](const std::string& name, bool is_metric) {
    const auto same = [&](const ShownFigure& f) { return f.name == name; };
    if (std::none_of(figures.begin(), figures.end(), same))
      figures.push_back({.name = name, .title = name, .is_metric = is_metric});
  };
  for (const EvalRecord& r : metrics.eval) {
    for (const auto& [name, values] : r.seed_values) add(name, true);
    for (const auto& [name, value] : r.values) add(name, false);
  }
  const auto add_layers = [&](const auto& record) {
    for (const LayerRecord& layer : record.layers)
      for (const auto& [name, heads] : layer) add(name, false);
  };
  for (const TrainRecord& r : metrics.train) {
    for (const auto& [name, value] : r.values) add(name, false);
    add_layers(r);
  }
  for (const EvalRecord& r : metrics.eval) add_layers(r);
  return figures;
}

}  // namespace stipple::trainer
