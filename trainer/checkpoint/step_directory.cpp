// SPDX-License-Identifier: Apache-2.0
#include "trainer/checkpoint/step_directory.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "trainer/checkpoint/durable_file.h"
#include "trainer/checkpoint/manifest.h"

namespace stipple::trainer {
namespace {

constexpr std::string_view kStepPrefix = "step-";

}  // namespace

std::string step_name(int64_t step) { return fmt::format("{}{:08d}", kStepPrefix, step); }

std::optional<int64_t> step_of(std::string_view name) {
  if (!name.starts_with(kStepPrefix)) return std::nullopt;
  const std::string digits(name.substr(kStepPrefix.size()));
  const bool numeric =
      std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (!numeric || digits.size() < 8 || digits.size() > 18) return std::nullopt;
  return std::stoll(digits);
}

std::vector<int64_t> steps_in(const std::string& directory) {
  std::vector<int64_t> steps;
  for (const std::string& name : list_directory(directory))
    if (const auto step = step_of(name)) steps.push_back(*step);
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

std::vector<std::string> list_checkpoints(const std::string& path) {
  namespace fs = std::filesystem;
  fs::path base = fs::path(path).lexically_normal();
  if (base.filename().empty()) base = base.parent_path();
  if (step_of(base.filename().string()) || fs::exists(base / kManifestName)) return {base.string()};
  if (fs::is_directory(base / "checkpoints")) base /= "checkpoints";
  std::vector<std::string> directories;
  for (int64_t step : steps_in(base.string()))
    directories.push_back((base / step_name(step)).string());
  return directories;
}

}  // namespace stipple::trainer
