// SPDX-License-Identifier: Apache-2.0
// A permutation of [0, n) that needs no table: any position in O(1), so the whole state of the data
// order is one integer. Balanced Feistel network with cycle walking.
#pragma once

#include <cstdint>

namespace stipple::data {

class Shuffle {
 public:
  Shuffle(uint64_t n, uint64_t seed, uint64_t epoch);
  uint64_t operator()(uint64_t position) const;  ///< bijective on [0, n)

 private:
  uint64_t n_;
  uint64_t key_;
  int half_bits_;
};

}  // namespace stipple::data
