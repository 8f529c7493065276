// SPDX-License-Identifier: Apache-2.0
// A half-open interval of element indices, for example of the flat gradient arena.
#pragma once

#include <cstdint>

namespace stipple {

struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

}  // namespace stipple
