// SPDX-License-Identifier: Apache-2.0
// Sizes as people read them.
#pragma once

#include <cstddef>
#include <string>

namespace stipple {

inline constexpr size_t kMegabyte = 1000000;

/// "640 B", "12.3 KB", "4567.8 MB".
std::string bytes_text(size_t bytes);

}  // namespace stipple
