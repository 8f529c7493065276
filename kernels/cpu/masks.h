// SPDX-License-Identifier: Apache-2.0
// Which tokens of a sequence are real: a mask's row, or null where all are.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/view.h"

namespace stipple::kernels::cpu {

inline const uint8_t* mask_row(View<const uint8_t> mask, int64_t b) {
  return mask.empty() ? nullptr : mask.at(b).data;
}

inline bool is_real(const uint8_t* mask, int64_t i) { return mask == nullptr || mask[i] != 0; }

inline int64_t count_real(const uint8_t* mask, int64_t n) {
  return mask == nullptr ? n : n - std::count(mask, mask + n, uint8_t{0});
}

}  // namespace stipple::kernels::cpu
