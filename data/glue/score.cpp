// SPDX-License-Identifier: Apache-2.0
#include "data/glue/score.h"

#include <limits>

namespace stipple::data::glue {
namespace {

double mean_of_measures(TaskId task, MeasureOf measure_of) {
  const std::vector<std::string_view> names = scored_measures(task);
  double sum = 0;
  for (const std::string_view name : names) sum += measure_of(task, name);
  return sum / static_cast<double>(names.size());
}

}  // namespace

std::vector<std::string_view> scored_measures(TaskId task) {
  switch (task) {
    case TaskId::kCola:
    case TaskId::kAx:
      return {kMatthews.name};
    case TaskId::kMrpc:
    case TaskId::kQqp:
      return {kAccuracy.name, kF1.name};
    case TaskId::kStsb:
      return {kPearson.name, kSpearman.name};
    default:
      return {kAccuracy.name};
  }
}

double task_score(TaskId task, MeasureOf measure_of) {
  const double own = mean_of_measures(task, measure_of);
  return task == TaskId::kMnli ? (own + mean_of_measures(TaskId::kMnliMm, measure_of)) / 2 : own;
}

double score_of(std::span<const TaskId> tasks, MeasureOf measure_of) {
  if (tasks.empty()) return std::numeric_limits<double>::quiet_NaN();
  double sum = 0;
  for (const TaskId task : tasks) sum += task_score(task, measure_of);
  return sum / static_cast<double>(tasks.size());
}

}  // namespace stipple::data::glue
