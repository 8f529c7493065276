// SPDX-License-Identifier: Apache-2.0
// A picture as a task reads and writes it.
#pragma once

#include <cstdint>
#include <vector>

namespace stipple::data {

struct Picture {
  int64_t width = 0, height = 0;
  std::vector<uint8_t> rgb;  ///< [height, width, 3]  rows from the top
};

}  // namespace stipple::data
