// SPDX-License-Identifier: Apache-2.0
#include "trainer/optimizer/name_patterns.h"

#include <fnmatch.h>

#include <algorithm>

#include "core/config/nearest_match.h"
#include "core/error.h"
#include "core/text.h"

namespace stipple::trainer {
namespace {

bool matches(const std::string& pattern, const std::string& name) {
  return fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
}

/// The names, their beginnings as "encoder.0.*", and their ends as "*.bias".
std::vector<std::string> patterns_of(const std::vector<std::string>& names) {
  std::vector<std::string> all = names;
  for (const std::string& name : names) {
    for (size_t dot = name.find('.'); dot != std::string::npos; dot = name.find('.', dot + 1)) {
      all.push_back(name.substr(0, dot + 1) + "*");
      all.push_back("*" + name.substr(dot));
    }
  }
  std::ranges::sort(all);
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return all;
}

}  // namespace

NamePatterns::NamePatterns(std::string key, std::string_view text) : key_(std::move(key)) {
  while (!text.empty()) {
    const size_t comma = std::min(text.find(','), text.size());
    std::string_view part = text.substr(0, comma);
    text.remove_prefix(std::min(comma + 1, text.size()));
    while (part.starts_with(' ')) part.remove_prefix(1);
    while (part.ends_with(' ')) part.remove_suffix(1);
    STIPPLE_CHECK_AS(ConfigError, !part.empty(), key_,
                     ": a pattern is empty; write names with commas between: *.bias, head.*");
    patterns_.emplace_back(part);
  }
}

bool NamePatterns::match(const std::string& name) const {
  return std::ranges::any_of(patterns_,
                             [&](const std::string& pattern) { return matches(pattern, name); });
}

void NamePatterns::require_matches(const std::vector<std::string>& names) const {
  for (const std::string& pattern : patterns_) {
    const bool is_used =
        std::ranges::any_of(names, [&](const std::string& name) { return matches(pattern, name); });
    if (is_used) continue;
    const std::string near = nearest_match(pattern, patterns_of(names));
    throw ConfigError(detail::concat(key_, ": '", one_line(pattern),
                                     "' matches no tensor of the model; ",
                                     near.empty() ? "they are called like '" + names.front() + "'"
                                                  : "did you mean '" + near + "'?"));
  }
}

}  // namespace stipple::trainer
