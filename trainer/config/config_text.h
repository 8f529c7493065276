// SPDX-License-Identifier: Apache-2.0
// The resolved configuration as a flat list, for showing and comparing. It reads what
// config_to_yaml writes (nested mappings of plain values), not YAML at large: core/config.h does
// that.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace stipple::trainer {

/// {"train.steps", "1000"} in the order of the text. Lines without a key are left out.
std::vector<std::pair<std::string, std::string>> flatten_config(std::string_view yaml);

/// "model.width: 64 before, 128 now" for each key that differs or exists on one side
/// only.
std::vector<std::string> differing_keys(std::string_view stored_yaml, std::string_view now_yaml);

}  // namespace stipple::trainer
