// SPDX-License-Identifier: Apache-2.0
// Over a vocabulary, logits exist for a chunk of rows at a time: 4 MB, enough rows for products to run
// at their speed, little beside what an encoder saves. Chunks depend on the vocabulary alone, so that
// sums over them have one order.
#pragma once

#include <algorithm>
#include <cstdint>

namespace stipple::model {

inline int64_t rows_of_logit_chunk(int64_t vocabulary) {
  constexpr int64_t kChunkLogits = int64_t{1} << 20;
  constexpr int64_t kFewestChunkRows = 64;
  return std::max(kFewestChunkRows, kChunkLogits / vocabulary);
}

}  // namespace stipple::model
