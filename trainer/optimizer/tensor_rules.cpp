// SPDX-License-Identifier: Apache-2.0
#include "trainer/optimizer/tensor_rules.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <string_view>

#include "core/error.h"
#include "trainer/optimizer/name_patterns.h"

namespace stipple::trainer {
namespace {

/// "encoder.3.query.weight": 3.
std::optional<int64_t> block_of(std::string_view name) {
  constexpr std::string_view kBlocks = "encoder.";
  if (!name.starts_with(kBlocks)) return std::nullopt;
  name.remove_prefix(kBlocks.size());
  int64_t block = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), block);
  if (error != std::errc() || end == name.data() + name.size() || *end != '.') return std::nullopt;
  return block;
}

int64_t count_layers(const std::vector<TensorRule>& rules) {
  int64_t layers = 0;
  for (const TensorRule& rule : rules)
    layers = std::max(layers, block_of(rule.name).value_or(-1) + 1);
  return layers;
}

std::vector<std::string> learned_names(const std::vector<TensorRule>& rules) {
  std::vector<std::string> names;
  for (const TensorRule& rule : rules)
    if (!rule.is_frozen) names.push_back(rule.name);
  return names;
}

struct Group {
  std::string name;
  NamePatterns patterns;
  const GroupConfig& config;
};

std::vector<Group> groups_of(const OptimizerConfig& config, const std::vector<std::string>& names) {
  std::vector<Group> groups;
  for (const auto& [name, group] : config.groups) {
    const std::string key = "optimizer.groups." + name + ".tensors";
    groups.push_back({name, NamePatterns(key, group.tensors), group});
    STIPPLE_CHECK_AS(ConfigError, !groups.back().patterns.empty(), key,
                     ": is empty; write the names of the group's tensors, like *.bias, head.*");
    groups.back().patterns.require_matches(names);
  }
  return groups;
}

void put_into_group(TensorRule& rule, const std::vector<Group>& groups) {
  const Group* found = nullptr;
  for (const Group& group : groups) {
    if (!group.patterns.match(rule.name)) continue;
    STIPPLE_CHECK_AS(ConfigError, found == nullptr, "optimizer.groups: '", rule.name, "' is in '",
                     found->name, "' and in '", group.name, "'; make their patterns exclude it");
    found = &group;
  }
  if (found == nullptr) return;
  rule.group = found->name;
  if (found->config.has_weight_decay()) rule.weight_decay = found->config.weight_decay;
  rule.rate_factor *= found->config.rate_factor;
}

/// From the bottom: 0 for the embedding, then blocks; none for what stands above.
std::optional<int64_t> stage_of(const std::string& name) {
  if (name.starts_with("embedding.")) return 0;
  if (const std::optional<int64_t> block = block_of(name)) return *block + 1;
  return std::nullopt;
}

void freeze(const FreezeConfig& config, std::vector<TensorRule>& rules) {
  const NamePatterns patterns("optimizer.freeze.tensors", config.tensors);
  const int64_t layers = count_layers(rules);
  patterns.require_matches(learned_names(rules));
  STIPPLE_CHECK_AS(ConfigError, config.layers <= layers, "optimizer.freeze.layers: ", config.layers,
                   " of a model of ", layers, " (model.layers)");
  for (TensorRule& rule : rules) {
    const std::optional<int64_t> stage = stage_of(rule.name);
    const bool is_embedding = stage == 0, is_low = stage > 0 && stage <= config.layers;
    rule.is_frozen |= (is_embedding && config.embeddings) || is_low || patterns.match(rule.name);
  }
  STIPPLE_CHECK_AS(ConfigError, !learned_names(rules).empty(),
                   "optimizer.freeze: nothing is left to learn; freeze less");
}

/// "embedding.*" where all of a stage is frozen, names otherwise.
std::string frozen_text(const std::vector<TensorRule>& rules, const std::vector<bool>& is_whole) {
  std::vector<std::string> parts;
  for (size_t stage = 0; stage < is_whole.size(); ++stage) {
    if (!is_whole[stage]) continue;
    parts.push_back(stage == 0 ? "embedding.*" : detail::concat("encoder.", stage - 1, ".*"));
  }
  for (const TensorRule& rule : rules) {
    const std::optional<int64_t> stage = stage_of(rule.name);
    const bool is_told = stage && is_whole[static_cast<size_t>(*stage)];
    if (rule.is_frozen && !is_told) parts.push_back(rule.name);
  }
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : ", ") + part;
  return text;
}

/// By stage: whether nothing of it learns.
std::vector<bool> whole_stages(const std::vector<TensorRule>& rules) {
  std::vector<bool> is_whole(static_cast<size_t>(count_layers(rules)) + 1, true);
  for (const TensorRule& rule : rules) {
    const std::optional<int64_t> stage = stage_of(rule.name);
    if (stage && !rule.is_frozen) is_whole[static_cast<size_t>(*stage)] = false;
  }
  return is_whole;
}

}  // namespace

int64_t frozen_stages(const std::vector<TensorRule>& rules) {
  const std::vector<bool> is_whole = whole_stages(rules);
  return std::ranges::find(is_whole, false) - is_whole.begin();
}

std::vector<std::string> notes_of(const OptimizerConfig& config,
                                  const std::vector<TensorRule>& rules) {
  std::vector<std::string> notes;
  const FreezeConfig& asked = config.freeze;
  if (asked.embeddings || asked.layers > 0 || !asked.tensors.empty()) {
    int64_t tensors = 0, numbers = 0;
    for (const TensorRule& rule : rules) {
      tensors += rule.is_frozen ? 1 : 0;
      numbers += rule.is_frozen ? rule.range.size() : 0;
    }
    notes.push_back(detail::concat("frozen: ", tensors, " of ", rules.size(), " tensors, ", numbers,
                                   " numbers: ", frozen_text(rules, whole_stages(rules))));
  }
  for (const auto& [name, group] : config.groups) {
    int64_t tensors = 0, numbers = 0;
    for (const TensorRule& rule : rules) {
      if (rule.group != name) continue;
      ++tensors;
      numbers += rule.range.size();
    }
    notes.push_back(detail::concat("group ", name, ": ", tensors, " tensors, ", numbers,
                                   " numbers, learning rate x ", group.rate_factor));
    if (group.has_weight_decay()) notes.back() += detail::concat(", decay ", group.weight_decay);
  }
  return notes;
}

int64_t depth_of(const std::string& name, int64_t num_layers) {
  if (const std::optional<int64_t> block = block_of(name)) return num_layers - *block;
  return name.starts_with("embedding.") ? num_layers + 1 : 0;
}

std::vector<TensorRule> tensor_rules(const OptimizerConfig& config,
                                     const model::ParameterStore& store) {
  std::vector<TensorRule> rules;
  for (const model::ParameterStore::Entry& entry : store.entries()) {
    const bool decays = entry.decay == model::Decay::kYes;
    rules.push_back({.name = entry.name,
                     .range = entry.range,
                     .weight_decay = decays ? config.weight_decay : 0.0,
                     .is_frozen = !entry.is_learned});
  }
  const std::vector<Group> groups = groups_of(config, learned_names(rules));
  const int64_t num_layers = count_layers(rules);
  freeze(config.freeze, rules);
  for (TensorRule& rule : rules) {
    if (rule.is_frozen) continue;
    const auto depth = static_cast<double>(depth_of(rule.name, num_layers));
    rule.rate_factor = std::pow(config.layer_decay, depth);
    put_into_group(rule, groups);
  }
  std::ranges::sort(rules, {}, [](const TensorRule& rule) { return rule.range.begin; });
  return rules;
}

}  // namespace stipple::trainer
