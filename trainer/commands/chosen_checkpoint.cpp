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
#include "trainer/record/best_step.h"
#include "trainer/record/metrics.h"

namespace stipple::trainer {
namespace {

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
    step = best_step(steps, read_metrics(directory.metrics()).eval, info.metrics.front());
    STIPPLE_CHECK_AS(ConfigError, step.has_value(), "--checkpoint best: no checkpoint in ",
                     directory.path(), " was validated; let eval.every be checkpoint.every");
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
