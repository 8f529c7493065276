// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/run_log.h"

#include <fmt/format.h>

#include <cmath>

#include "core/log.h"
#include "trainer/config/duration.h"

namespace stipple::trainer {
namespace {

/// "loss/train" and so on: what comes before the '/' groups TensorBoard's charts.
class TensorBoardScalars {
 public:
  void add(std::string tag, double value) {
    tags_.push_back(std::move(tag));
    values_.push_back(value);
  }
  void add(const Named<double>& values, std::string_view split) {
    for (const auto& [name, value] : values) add(fmt::format("{}/{}", name, split), value);
  }
  void write(TensorBoardWriter& board, int64_t step) const {
    std::vector<Scalar> scalars;
    for (size_t i = 0; i < tags_.size(); ++i) scalars.push_back({tags_[i], values_[i]});
    board.write(step, scalars);
  }

 private:
  std::vector<std::string> tags_;
  std::vector<double> values_;
};

}  // namespace

RunLog::RunLog(const Config& config, const data::TaskInfo& task, const model::FactTable& facts)
    : steps_(config.train.steps),
      task_(task),
      facts_(facts),
      shown_figures_(shown_figures(config, task, facts)) {}

void RunLog::open(const RunDirectory& directory, int64_t restored_step) {
  directory.write_figures(shown_figures_);
  metrics_ = std::make_unique<MetricsWriter>(directory.metrics(), restored_step);
  board_ = std::make_unique<TensorBoardWriter>(directory.path(), restored_step);
}

Named<double> RunLog::metrics(data::Sums sums) const {
  Named<double> values;
  for (const data::Metric& metric : task_.metrics)
    if (metric.of != nullptr) values.emplace_back(metric.name, metric.of(sums));
  return values;
}

Named<double> RunLog::figures(const FactSums& sums) const {
  Named<double> values;
  for (const model::Figure& figure : facts_.figures())
    if (figure.has_total) values.emplace_back(figure.name, sums.figure(figure));
  return values;
}

std::vector<LayerRecord> RunLog::layers(const FactSums& sums) const {
  return layer_records(facts_, [&](const model::Figure& figure, int64_t layer, int64_t i) {
    return sums.figure(figure, layer, i);
  });
}

std::string RunLog::shown(std::string_view name, double value, int decimals) const {
  bool is_share = false;
  for (const data::Metric& metric : task_.metrics)
    is_share |= metric.name == name && metric.is_share;
  for (const model::Figure& figure : facts_.figures())
    is_share |= figure.name == name && figure.is_share;
  return fmt::format("  {} {}", name, data::metric_text(value, is_share, decimals));
}

void RunLog::training(const TrainRecord& record) const {
  if (metrics_ == nullptr) return;
  std::string line = fmt::format("step {}/{}  loss {:.4f}", record.step, steps_, record.loss);
  for (const auto& [name, value] : record.values) {
    if (std::isnan(value)) continue;  // of evaluations alone
    line += shown(name, value, task_.metrics.empty() || name != task_.metrics.front().name ? 2 : 1);
  }
  const double left_s = record.seconds.step * static_cast<double>(steps_ - record.step);
  log::progress(fmt::format("{}  {:.0f} examples/s  {:.0f} tokens/s  ETA {}", line,
                            record.examples_per_s, record.tokens_per_s, duration_text(left_s)));
  metrics_->write(record);
  TensorBoardScalars scalars;
  scalars.add("loss/train", record.loss);
  scalars.add(record.values, "train");
  scalars.add("optimizer/learning_rate", record.learning_rate);
  scalars.add("optimizer/grad_norm", record.grad_norm);
  scalars.add("throughput/examples_per_s", record.examples_per_s);
  scalars.add("throughput/tokens_per_s", record.tokens_per_s);
  scalars.write(*board_, record.step);
}

void RunLog::evaluation(const EvalResult& result, int64_t step, std::string_view split) const {
  if (metrics_ == nullptr) return;
  const EvalRecord record = eval_record(result, step, split);
  std::string line = fmt::format("step {}  {} loss {:.4f}", step, split, result.loss);
  TensorBoardScalars scalars;
  scalars.add(fmt::format("loss/{}", split), result.loss);
  for (const data::Metric& metric : task_.metrics) {
    const double value = result.metric(metric.name);
    line += shown(metric.name, value, 2);
    scalars.add(fmt::format("{}/{}", metric.name, split), value);
  }
  scalars.add(result.figures, split);
  log::info(fmt::format("{}  ({} examples in {:.1f} s)", line, result.examples, result.seconds));
  if (!result.sameness.empty())
    log::warn(fmt::format("step {}  {}: {}", step, split, result.sameness));
  metrics_->write(record);
  scalars.write(*board_, step);
}

}  // namespace stipple::trainer
