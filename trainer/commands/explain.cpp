// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>

#include "core/config/nearest_match.h"
#include "core/error.h"
#include "core/text.h"
#include "trainer/commands/commands.h"
#include "trainer/exit_code.h"
#include "trainer/record/run_directory.h"

namespace stipple::trainer {
namespace {

std::vector<std::pair<std::string, std::string>> pairs_to_explain(Config& config) {
  return config_to_pairs([&](ConfigVisitor& v) { config.describe(v); });
}

}  // namespace

void explain(const ConfigArguments& arguments) {
  Config config = load_arguments(arguments.files, arguments.overrides);
  const auto pairs = pairs_to_explain(config);
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

int print_key(const ConfigArguments& arguments, const std::string& key) {
  Config config = load_arguments(arguments.files, arguments.overrides);
  std::vector<std::string> keys;
  for (const auto& [path, value] : pairs_to_explain(config)) {
    if (path == key) {
      fmt::print("{}\n", value);
      return kDone;
    }
    keys.push_back(path);
  }
  const std::string near = nearest_match(key, keys);
  throw ConfigError(
      "--key: there is no key '" + one_line(key) + "'" +
      (near.empty() ? "; `stipple keys` lists them" : "; did you mean " + near + "?"));
}

}  // namespace stipple::trainer
