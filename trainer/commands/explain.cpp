// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>

#include "trainer/commands/commands.h"
#include "trainer/record/run_directory.h"

namespace stipple::trainer {

void explain(const ConfigArguments& arguments) {
  Config config = load_arguments(arguments.files, arguments.overrides);
  const auto pairs = config_to_pairs([&](ConfigVisitor& v) { config.describe(v); });
  size_t key_width = 0;
  size_t value_width = 0;
  for (const auto& [path, value] : pairs) {
    key_width = std::max(key_width, path.size());
    value_width = std::max(value_width, value.size());
  }
  for (const auto& [path, value] : pairs) {
    fmt::print("{:{}}  {:{}}  {}\n", path, key_width, value, value_width, config.origins.str(path));
  }
}

}  // namespace stipple::trainer
