// SPDX-License-Identifier: Apache-2.0
#include "trainer/config/arguments.h"

#include <fmt/format.h>

#include <filesystem>

#include "core/error.h"
#include "core/text.h"

namespace stipple::trainer {
namespace {

bool has_equals(const std::string& text) { return text.find('=') != std::string::npos; }

[[noreturn]] void refuse(const std::string& typed, const std::string& key,
                         const std::string& value) {
  ConfigError error(fmt::format("\"{}\" has spaces around '='; write {}={}", one_line(typed),
                                one_line(key), one_line(value)));
  error.set_collective();  // every rank has the same arguments
  throw error;
}

}  // namespace

ConfigArguments split_config_arguments(const std::vector<std::string>& arguments) {
  refuse_spaced_assignments(arguments);
  ConfigArguments split;
  for (const std::string& argument : arguments) {
    const bool is_file = std::filesystem::exists(argument) || !has_equals(argument);
    (is_file ? split.files : split.overrides).push_back(argument);
  }
  return split;
}

void refuse_spaced_assignments(const std::vector<std::string>& arguments) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    const std::string next = i + 1 < arguments.size() ? arguments[i + 1] : "";
    if (i > 0 && argument == "=") {
      refuse(arguments[i - 1] + " = " + next, arguments[i - 1], next);
    }
    if (i > 0 && argument.starts_with('=')) {
      refuse(arguments[i - 1] + " " + argument, arguments[i - 1], argument.substr(1));
    }
    const bool next_is_value =
        !next.empty() && !has_equals(next) && !std::filesystem::is_regular_file(next);
    if (argument.size() > 1 && argument.ends_with('=') && next_is_value) {
      refuse(argument + " " + next, argument.substr(0, argument.size() - 1), next);
    }
  }
}

}  // namespace stipple::trainer
