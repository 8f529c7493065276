// SPDX-License-Identifier: Apache-2.0
// What a run tells while it trains: progress lines, metrics.jsonl, TensorBoard. It draws whatever
// the task and the model declare. Rank 0 tells; on other ranks nothing is written.
#pragma once

#include <memory>
#include <string_view>

#include "data/dataset.h"
#include "model/facts.h"
#include "trainer/config/config.h"
#include "trainer/loop/evaluate.h"
#include "trainer/loop/fact_sums.h"
#include "trainer/record/metrics.h"
#include "trainer/record/run_directory.h"
#include "trainer/record/tensorboard.h"

namespace stipple::trainer {

class RunLog {
 public:
  RunLog(const Config&, const data::TaskInfo&, const model::FactTable&);

  /// Rank 0: opens the files. Lines after `restored_step` are dropped; -1: a run from the start.
  void open(const RunDirectory&, int64_t restored_step);

  /// Those of the task's metrics that are of sums.
  Named<double> metrics(data::Sums sums) const;
  /// Figures of the last step: over all layers and heads, and per layer.
  Named<double> figures(const FactSums&) const;
  std::vector<LayerRecord> layers(const FactSums&) const;

  /// `record.values` and `record.layers` are the three above.
  void training(const TrainRecord& record) const;
  void evaluation(const EvalResult&, int64_t step, std::string_view split) const;

 private:
  std::string shown(std::string_view name, double value, int decimals) const;

  int64_t steps_;
  data::TaskInfo task_;
  const model::FactTable& facts_;
  std::vector<ShownFigure> shown_figures_;
  std::unique_ptr<MetricsWriter> metrics_;
  std::unique_ptr<TensorBoardWriter> board_;
};

}  // namespace stipple::trainer
