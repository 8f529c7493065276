// SPDX-License-Identifier: Apache-2.0
#include "trainer/config/resume.h"

#include <algorithm>
#include <array>
#include <optional>

#include "core/error.h"
#include "trainer/config/config.h"

namespace stipple::trainer {
namespace {

/// The same values in the words of this version; none where it does not understand them.
std::optional<std::string> translated(std::string_view yaml) {
  Config config;
  const auto describe = [&](ConfigVisitor& v) { config.describe(v); };
  try {
    load_config_text(std::string(yaml), "stored configuration", describe);
  } catch (const ConfigError&) {
    return std::nullopt;
  }
  config = config.resolved();
  return config_to_yaml(describe);
}

/// Model keys first: they are what most others follow from.
size_t rank_of(std::string_view key) {
  constexpr std::array<std::string_view, 3> kFirst = {"model.", "attention.", "data."};
  const auto found = std::find_if(kFirst.begin(), kFirst.end(),
                                  [&](std::string_view prefix) { return key.starts_with(prefix); });
  return static_cast<size_t>(found - kFirst.begin());
}

}  // namespace

const std::vector<std::string_view>& changeable_keys() {
  static const std::vector<std::string_view> keys = {
      "run.dir", "run.resume", "run.max_time",
      // Where and how it is computed. Another micro-batch changes the last bits only.
      "device", "precision", "reduction", "threads", "step.", "comm.", "train.micro_batch",
      "train.length_multiple", "attention.implementation",
      // Their content is compared by its fingerprint.
      "data.dir", "data.files", "data.vocab", "data.mlm.shards",
      // Read when training begins.
      "attention.sparsefinder.fitted",
      // How long, and how large the steps are.
      "train.steps", "train.phases.", "optimizer.learning_rate", "optimizer.schedule.",
      "optimizer.weight_decay", "optimizer.clip_norm", "optimizer.layer_decay", "optimizer.groups.",
      "optimizer.freeze.", "guard.",
      // How closely it is watched.
      "eval.", "checkpoint.", "log."};
  return keys;
}

bool may_change(std::string_view key) {
  const auto& keys = changeable_keys();
  return std::any_of(keys.begin(), keys.end(), [&](std::string_view allowed) {
    return allowed.ends_with('.') ? key.starts_with(allowed) : key == allowed;
  });
}

ConfigChanges changes_between(std::string_view stored_yaml, std::string_view now_yaml) {
  const std::optional<std::string> stored = translated(stored_yaml);
  const std::optional<std::string> now = translated(now_yaml);
  std::vector<KeyDifference> all =
      stored && now ? differing_keys(*stored, *now) : differing_keys(stored_yaml, now_yaml);
  std::stable_sort(all.begin(), all.end(), [](const KeyDifference& a, const KeyDifference& b) {
    return rank_of(a.key) < rank_of(b.key);
  });
  ConfigChanges changes;
  for (KeyDifference& difference : all) {
    // Of two versions of the program, one may not know a key; in one, a section may be new or gone.
    if (!(stored && now) && (!difference.before || !difference.now)) continue;
    auto& list = may_change(difference.key) ? changes.applied : changes.refused;
    list.push_back(std::move(difference));
  }
  return changes;
}

}  // namespace stipple::trainer
