// SPDX-License-Identifier: Apache-2.0
#include "core/bytes_text.h"

#include <fmt/format.h>

namespace stipple {

std::string bytes_text(size_t bytes) {
  if (bytes < 10'000) return fmt::format("{} B", bytes);
  if (bytes < 10'000'000) return fmt::format("{:.1f} KB", static_cast<double>(bytes) / 1e3);
  return fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6);
}

}  // namespace stipple
