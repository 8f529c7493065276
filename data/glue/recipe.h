// SPDX-License-Identifier: Apache-2.0
// How others fine-tune on each task of GLUE: epochs, batch, learning rate, decay, schedule. They differ in
// what differs here; everything else is the configuration's.
//
//   const Recipe& recipe = recipe_named("mosaicbert");
//   recipe.of(TaskId::kMrpc).learning_rate;
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "data/glue/benchmark.h"

namespace stipple::data::glue {

/// The tasks of GLUE that are trained, in the benchmark's order: MNLI once, the diagnostic not.
inline constexpr std::array kTrainedTasks = {TaskId::kCola, TaskId::kSst2, TaskId::kMrpc,
                                             TaskId::kQqp,  TaskId::kStsb, TaskId::kMnli,
                                             TaskId::kQnli, TaskId::kRte,  TaskId::kWnli};

/// 0: the configuration's.
struct TaskRecipe {
  int64_t epochs = 3;
  int64_t batch = 0;
  double learning_rate = 0;
  double weight_decay = 0;
};

struct Recipe {
  std::string_view name;
  std::string_view source;  ///< for a person
  std::array<TaskRecipe, kTrainedTasks.size()> tasks;
  std::span<const std::string_view> keys;  ///< "key=value" of all tasks

  /// MNLI's for its mismatched files. Error for the diagnostic, which is not trained.
  const TaskRecipe& of(TaskId) const;
};

std::span<const Recipe> all_recipes();
/// nullptr: there is none of that name.
const Recipe* recipe_named(std::string_view);

/// How many seeds a task's result is the median of, where nobody says: five of those whose training and
/// validation are small, where one seed says little.
int64_t usual_seeds(TaskId);

/// RoBERTa's: tasks that begin from the model of MNLI do better (arXiv 1907.11692, section 5.1).
bool gains_from_mnli(TaskId);

}  // namespace stipple::data::glue
