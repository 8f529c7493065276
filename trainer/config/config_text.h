// SPDX-License-Identifier: Apache-2.0
// The resolved configuration as a flat list, for showing and comparing. It reads what
// config_to_yaml writes (nested mappings of plain values), not YAML at large: core/config.h does
// that.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace stipple::trainer {

/// {"train.steps", "1000"} in the order of the text. Lines without a key are left out.
std::vector<std::pair<std::string, std::string>> flatten_config(std::string_view yaml);

/// A key of two configurations and its values there; none where one does not have the key.
struct KeyDifference {
  std::string key;
  std::optional<std::string> before;
  std::optional<std::string> now;
};

/// Each key that differs or exists on one side only, in the order of the texts.
std::vector<KeyDifference> differing_keys(std::string_view stored_yaml, std::string_view now_yaml);

/// "model.width: 64 before, 128 now".
std::string text_of(const KeyDifference&);

/// The first few, on one line.
std::string text_of(const std::vector<KeyDifference>&);

}  // namespace stipple::trainer
