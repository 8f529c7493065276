// SPDX-License-Identifier: Apache-2.0
#include "data/shuffle.h"

#include <bit>

#include "core/error.h"
#include "core/rng.h"

namespace stipple::data {
namespace {

// Four rounds make a good shuffle of large domains; small ones have narrow halves and need more.
constexpr int kRounds = 6;

}  // namespace

Shuffle::Shuffle(uint64_t n, uint64_t seed, uint64_t epoch)
    : n_(n),
      key_(splitmix64(splitmix64(seed) ^ epoch)),
      half_bits_(static_cast<int>((std::bit_width(n - 1) + 1) / 2)) {
  STIPPLE_CHECK(n > 0, "an empty dataset cannot be shuffled");
}

uint64_t Shuffle::operator()(uint64_t position) const {
  STIPPLE_ASSERT(position < n_);
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t x = position;
  // Cycle walking: the network permutes 4^half_bits_ < 4 n values; following its cycle until it is
  // back below n permutes [0, n), in fewer than four passes on average.
  do {
    uint64_t left = x >> half_bits_;
    uint64_t right = x & mask;
    for (uint64_t round = 0; round < kRounds; ++round) {
      const uint64_t mixed = left ^ (splitmix64(key_ + (round << 32 | right)) & mask);
      left = right;
      right = mixed;
    }
    x = left << half_bits_ | right;
  } while (x >= n_);
  return x;
}

}  // namespace stipple::data
