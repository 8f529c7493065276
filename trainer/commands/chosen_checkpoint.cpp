// SPDX-License-Identifier: Apache-2.0
#include "trainer/commands/chosen_checkpoint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>
#include <vector>

#include "core/error.h"
#include "trainer/checkpoint/step_directory.h"
#include "trainer/record/metrics.h"

namespace stipple::trainer {
namespace {

/// Of `steps`, the one whose validation was best; none where none of them was validated.
std::optional<int64_t> best_of(std::vector<int64_t> steps, const std::vector<EvalRecord>& records,
                               const data::Metric& metric) {
  std::ranges::sort(steps);
  std::optional<int64_t> best;
  double best_value = 0;
  for (const int64_t step : steps) {
    for (const EvalRecord& record : records) {
      if (!record.is_plain() || record.split != "val" || record.step != step) continue;
      const double value = value_of(record.values, metric.name);
      const bool is_better = metric.less_is_better ? value < best_value : value > best_value;
      if (value == value && (!best || is_better)) best = step, best_value = value;
    }
  }
  return best;
}

std::optional<int64_t> number_in(const std::string& text) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

std::string choose(const RunDirectory& directory, const data::TaskInfo& info,
                   const std::string& which) {
  if (which == kNewestCheckpoint) return directory.path();
  const std::vector<int64_t> steps = steps_in(directory.checkpoints());
  std::optional<int64_t> step = number_in(which);
  if (which == "best") {
    STIPPLE_CHECK_AS(ConfigError, !info.metrics.empty(), "--checkpoint best: ", info.name,
                     " has no measure to choose by");
    step = best_of(steps, read_metrics(directory.metrics()).eval, info.metrics.front());
    STIPPLE_CHECK_AS(ConfigError, step.has_value(), "--checkpoint best: no checkpoint in ",
                     directory.path(),
                     " was validated; let eval.every be checkpoint.every, and "
                     "checkpoint.keep as many as are to be chosen from");
  }
  STIPPLE_CHECK_AS(ConfigError, step.has_value(), "--checkpoint ", which,
                   ": newest, best, or the step of one");
  if (std::ranges::find(steps, *step) == steps.end()) {
    throw ConfigError(
        fmt::format("--checkpoint {}: {} has no checkpoint of that step; there are {}", which,
                    directory.path(), fmt::join(steps, ", ")));
  }
  return directory.checkpoints() + "/" + step_name(*step);
}

}  // namespace

std::string chosen_checkpoint(comm::Communicator& communicator, const RunDirectory& directory,
                              const data::TaskInfo& info, const std::string& which) {
  std::string path;
  comm::agree(communicator, [&] {
    if (communicator.rank() == 0) path = choose(directory, info, which);
  });
  return communicator.broadcast(std::move(path), 0);
}

}  // namespace stipple::trainer
