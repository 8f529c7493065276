// SPDX-License-Identifier: Apache-2.0
// What somebody who made a typo may have meant.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace stipple {

/// The candidate closest to `word` by edit distance; empty when none is near.
std::string nearest_match(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace stipple
