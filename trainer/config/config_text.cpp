// SPDX-License-Identifier: Apache-2.0
#include "trainer/config/config_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace stipple::trainer {
namespace {

std::string_view trim(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r") - begin + 1);
}

std::string_view without_comment(std::string_view line) {
  char quote = 0;
  for (size_t i = 0; i < line.size(); ++i) {
    if (quote != 0) {
      if (line[i] == quote) quote = 0;
    } else if (line[i] == '"' || line[i] == '\'') {
      quote = line[i];
    } else if (line[i] == '#' && (i == 0 || line[i - 1] == ' ')) {
      return line.substr(0, i);
    }
  }
  return line;
}

struct Level {
  size_t indent;
  std::string prefix;
};

}  // namespace

std::vector<std::pair<std::string, std::string>> flatten_config(std::string_view yaml) {
  std::vector<std::pair<std::string, std::string>> pairs;
  std::vector<Level> levels;
  while (!yaml.empty()) {
    const size_t end = yaml.find('\n');
    const std::string_view line = without_comment(yaml.substr(0, end));
    yaml.remove_prefix(end == std::string_view::npos ? yaml.size() : end + 1);
    const size_t colon = line.find(':');
    if (trim(line).empty() || colon == std::string_view::npos) continue;
    const size_t indent = line.find_first_not_of(' ');
    while (!levels.empty() && levels.back().indent >= indent) levels.pop_back();
    std::string key(levels.empty() ? "" : levels.back().prefix);
    key += trim(line.substr(0, colon));
    const std::string_view value = trim(line.substr(colon + 1));
    if (value.empty())
      levels.push_back({indent, key + "."});
    else
      pairs.emplace_back(key, value);
  }
  return pairs;
}

std::vector<KeyDifference> differing_keys(std::string_view stored_yaml, std::string_view now_yaml) {
  const auto stored_pairs = flatten_config(stored_yaml);
  const auto now_pairs = flatten_config(now_yaml);
  const std::map<std::string, std::string> now(now_pairs.begin(), now_pairs.end());
  const std::map<std::string, std::string> stored(stored_pairs.begin(), stored_pairs.end());
  std::vector<KeyDifference> differences;
  for (const auto& [key, value] : stored_pairs) {
    const auto found = now.find(key);
    if (found == now.end())
      differences.push_back({key, value, std::nullopt});
    else if (found->second != value)
      differences.push_back({key, value, found->second});
  }
  for (const auto& [key, value] : now_pairs)
    if (!stored.contains(key)) differences.push_back({key, std::nullopt, value});
  return differences;
}

std::string text_of(const KeyDifference& d) {
  return fmt::format("{}: {} before, {} now", d.key, d.before.value_or("absent"),
                     d.now.value_or("absent"));
}

std::string text_of(const std::vector<KeyDifference>& differences) {
  constexpr size_t kMaxShown = 3;
  std::string text;
  for (size_t i = 0; i < std::min(differences.size(), kMaxShown); ++i)
    text += (i == 0 ? "" : "; ") + text_of(differences[i]);
  if (differences.size() > kMaxShown)
    text += fmt::format("; and {} more", differences.size() - kMaxShown);
  return text;
}

}  // namespace stipple::trainer
