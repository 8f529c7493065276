// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "data/task_config.h"
#include "data/tasks/tasks.h"

namespace stipple::data {
namespace {

struct Entry {
  std::string_view name;
  std::unique_ptr<Task> (*make)(const DataConfig&, uint64_t seed);
};

/// In the order of TaskKind.
constexpr std::array kTasks = {
    Entry{"listops", &tasks::make_listops},
    Entry{"repeated_token", &tasks::make_repeated_token},
};

}  // namespace

void DataConfig::describe(ConfigVisitor& visitor) {
  std::vector<std::string_view> names;
  for (const Entry& entry : kTasks) names.push_back(entry.name);
  visitor.choice("task", task, names, {.doc = "What the model learns."});
  visitor.field(
      "dir", dir,
      {.doc = "Folder with basic_train.tsv, basic_val.tsv and basic_test.tsv (listops), as "
              "`stipple data listops` writes them or as published."});
  visitor.field("max_length", max_length,
                {.doc = "Length of the model's positions; longer sequences lose their end. A "
                        "repeated_token model has repeated_token.sequence positions instead.",
                 .unit = "tokens",
                 .min = 1,
                 .max = 65536});
  visitor.field("skip_bad_rows", skip_bad_rows,
                {.doc = "Leave out rows of the files that are malformed or whose label is wrong, "
                        "and tell how many; false: the first such row is an error."});
  visitor.section("repeated_token", repeated_token,
                  "Does this token occur again in the sequence? Made on the fly.");
}

std::unique_ptr<Task> make_task(const DataConfig& config, uint64_t seed) {
  const auto index = static_cast<size_t>(config.task);
  STIPPLE_CHECK(index < kTasks.size(), "make_task: task ", index, " is not in the table");
  return kTasks[index].make(config, seed);
}

}  // namespace stipple::data
