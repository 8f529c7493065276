// SPDX-License-Identifier: Apache-2.0
// The random words of one generated example: a pure function of (seed, example, stream), whoever
// draws them and when. For data that is made, not read; kernels count their own draws (core/rng.h).
#pragma once

#include <cstdint>

#include "core/rng.h"

namespace stipple::data {

class RandomStream {
 public:
  /// `stream` in 0..4095 separates collections of examples that share a seed, such as splits.
  RandomStream(uint64_t seed, uint64_t example, int stream)
      : key_(RngKey{seed, example}.philox()), stream_(stream_word(stream, 0, Purpose::kData)) {}

  /// 32 random bits.
  uint32_t next() {
    if (used_ == words_.size()) {
      words_ = philox4x32(rng_counter(block_++, 0, 0, stream_), key_);
      used_ = 0;
    }
    return words_[used_++];
  }

  /// Uniform in 0..n-1, up to a relative error of n / 2^32 in each probability.
  uint32_t below(uint32_t n) { return static_cast<uint32_t>((uint64_t{next()} * n) >> 32); }

 private:
  PhiloxKey key_;
  uint32_t stream_;
  uint32_t block_ = 0;
  PhiloxCounter words_{};
  size_t used_ = 4;
};

}  // namespace stipple::data
