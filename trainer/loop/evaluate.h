// SPDX-License-Identifier: Apache-2.0
// Accuracy and loss over a whole split. Every example counts exactly once, on any number of ranks,
// with the same result to the last bit.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "comm/communicator.h"
#include "core/function_ref.h"
#include "data/batch.h"
#include "trainer/loop/answer_sheet.h"
#include "trainer/loop/replica.h"
#include "trainer/record/metrics.h"
#include "trainer/record/report.h"

namespace stipple::trainer {

struct EvalResult {
  double loss = 0;                               ///< mean over labels
  Named<std::vector<double>> seed_metrics = {};  ///< the task's metrics, one per sampling seed
  Named<double> figures = {};                    ///< that have a total, over all seeds
  Named<std::vector<double>> profiles = {};      ///< the task's, over all seeds
  std::vector<LayerRecord> layers = {};          ///< figures, over all seeds
  data::Answers answers = {};  ///< under the first sampling seed; none where the task tells none
  std::string sameness = {};   ///< a word about answers that are all the same, else empty
  int64_t examples = 0;
  double seconds = 0;

  /// Mean of a metric over the sampling seeds.
  double metric(std::string_view name) const;
  /// Adds figures that were found besides: to the layers, and as means over them and their heads.
  void add(const std::vector<LayerRecord>& more);
  double spread() const;  ///< of the first metric over the seeds: largest minus smallest
};

/// What names the draws of an evaluation under one of its sampling seeds.
RngKey evaluation_rng(const Config&, int64_t seed);

/// Leaves are dealt to ranks round-robin; losses are added in leaf order. The graph of example i
/// under sampling seed s is a function of (run.seed, s, i) alone. With several seeds, loss
/// is the mean over them. `stop` is asked now and then: when it says so on some
/// rank, all give up and there is no result. Collective.
std::optional<EvalResult> evaluate(Replica&, comm::Communicator&, const data::Dataset&,
                                   const data::TaskInfo&, const Config&, int64_t seeds,
                                   FunctionRef<bool()> stop);

/// What metrics.jsonl keeps of it.
EvalRecord eval_record(const EvalResult&, int64_t step, std::string_view split);

/// How metrics.jsonl's declared numbers are shown: the task's metrics, then figures of the model and
/// of its graphs.
std::vector<ShownFigure> shown_figures(const Config&, const data::TaskInfo&,
                                       const model::FactTable&);

/// The task's ladder on these examples.
Ladder ladder_of(const data::Task&, const data::Dataset&);

}  // namespace stipple::trainer
