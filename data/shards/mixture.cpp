// SPDX-License-Identifier: Apache-2.0
#include "data/shards/mixture.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "core/error.h"

namespace stipple::data::shards {
namespace {

std::optional<double> number(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool is_number = error == std::errc() && end == text.data() + text.size();
  return is_number ? std::optional(value) : std::nullopt;
}

std::string_view without_blanks(std::string_view text) {
  const size_t first = text.find_first_not_of(' ');
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(' ') + 1 - first);
}

WeightedShard parse_shard(std::string_view text, std::string_view key) {
  WeightedShard shard{.name = std::string(text)};
  const size_t colon = text.rfind(':');
  const auto weight = colon == text.npos ? std::nullopt : number(text.substr(colon + 1));
  if (weight) {
    shard = {.name = std::string(text.substr(0, colon)), .weight = *weight};
    STIPPLE_CHECK_AS(ConfigError, std::isfinite(*weight) && *weight > 0, key, ": ", shard.name,
                     " has a weight of ", *weight, "; weights are positive");
  }
  STIPPLE_CHECK_AS(ConfigError, !shard.name.empty(), key,
                   ": a name is empty; it is to be PREFIX or PREFIX:WEIGHT, separated by commas");
  return shard;
}

}  // namespace

std::vector<WeightedShard> parse_mixture(std::string_view text, std::string_view key) {
  std::vector<WeightedShard> shards;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    shards.push_back(parse_shard(without_blanks(text.substr(begin, end - begin)), key));
    begin = end + 1;
  }
  const bool has_weights = shards.front().weight > 0;
  for (const WeightedShard& shard : shards) {
    STIPPLE_CHECK_AS(ConfigError, (shard.weight > 0) == has_weights, key, ": ", shard.name,
                     has_weights ? " has no weight, others do" : " has a weight, others have none",
                     "; give one to all shards, or to none to show each of them whole");
  }
  return shards;
}

}  // namespace stipple::data::shards
