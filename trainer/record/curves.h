// SPDX-License-Identifier: Apache-2.0
// What charts and tables take from the records of a run.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "trainer/record/chart.h"
#include "trainer/record/figures.h"
#include "trainer/record/metrics.h"

namespace stipple::trainer {

using TrainValue = std::function<double(const TrainRecord&)>;
using EvalValue = std::function<double(const EvalRecord&)>;

double step_of(const TrainRecord&);
double step_of(const EvalRecord&);

/// One point per training record.
Series train_series(const std::string& name, const std::vector<TrainRecord>&, int color,
                    const TrainValue&);

/// One point per plain evaluation of a split.
Series evaluation_series(const std::string& name, const std::vector<EvalRecord>&,
                         const std::string& split, int color, const EvalValue&);

/// Of one evaluation, by where labels stand: x = 1, 2, ...
Series profile_series(const std::string& name, const EvalRecord&, const std::string& profile,
                      int color);

/// Exponential moving average that starts without bias; a gap in the data leaves a gap.
Series smoothed(const Series& raw);

/// Splits that were evaluated, the later in the alphabet first: "val" before "test".
std::vector<std::string> evaluated_splits(const std::vector<EvalRecord>&);

/// The last plain evaluation, of the test split if there is one: the result of the run.
std::optional<EvalRecord> final_evaluation(const Metrics&);

/// Of the finite values; NaN where there is none.
double median_of(const std::vector<TrainRecord>&, const TrainValue&);

/// What `declared` (figures.json) says; without it, every number that a record has beyond the fixed
/// ones.
std::vector<ShownFigure> figures_of(const Metrics&, const std::vector<ShownFigure>& declared);

}  // namespace stipple::trainer
