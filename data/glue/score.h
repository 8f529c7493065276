// SPDX-License-Identifier: Apache-2.0
// GLUE's score: the mean over nine tasks of what each is scored by. A task with two measures counts their
// mean, MNLI's matched and mismatched files count as one task (the benchmark's own rule; by it the rows of
// BERT's tables give their scores).
//
//   const double score = score_of(kTrainedTasks, [&](TaskId task, std::string_view measure) { ... });
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "core/function_ref.h"
#include "data/glue/benchmark.h"

namespace stipple::data::glue {

/// The names of the measures whose mean a task is scored by: some of metrics_of().
std::vector<std::string_view> scored_measures(TaskId);

/// A measure's value by the task whose files it was taken on (MNLI's two, not the diagnostic); NaN: not
/// known.
using MeasureOf = FunctionRef<double(TaskId, std::string_view measure)>;

/// Of one of kTrainedTasks; NaN where a measure of it is not known. MNLI's needs both files.
double task_score(TaskId, MeasureOf);

/// The mean over these tasks; NaN where one of them is not known, or there is none.
double score_of(std::span<const TaskId>, MeasureOf);

}  // namespace stipple::data::glue
