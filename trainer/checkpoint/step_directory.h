// SPDX-License-Identifier: Apache-2.0
// Where checkpoints lie: checkpoints/step-NNNNNNNN, one directory each, named by the steps done.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace stipple::trainer {

std::string step_name(int64_t step);
/// The step of a directory of such a name; none for other names.
std::optional<int64_t> step_of(std::string_view name);
/// The steps of a checkpoints directory, newest first.
std::vector<int64_t> steps_in(const std::string& directory);

/// The checkpoint directories that `path` stands for, newest first: itself, or those in it, or in
/// its `checkpoints`.
std::vector<std::string> list_checkpoints(const std::string& path);

}  // namespace stipple::trainer
