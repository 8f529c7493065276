// SPDX-License-Identifier: Apache-2.0
#include "core/rng.h"

#include <gtest/gtest.h>

#include <set>

namespace stipple {
namespace {

// The known answers that the authors publish with their reference code (Random123, kat_vectors,
// philox4x32 10).
TEST(Philox, MatchesTheKnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (PhiloxCounter{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}));
  EXPECT_EQ(philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}),
            (PhiloxCounter{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}));
  EXPECT_EQ(
      philox4x32({0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}, {0xa4093822u, 0x299f31d0u}),
      (PhiloxCounter{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}));
}

TEST(Splitmix, MatchesTheKnownAnswers) {
  // The first two outputs of the reference generator (Vigna, splitmix64.c) seeded with 0 and 1.
  EXPECT_EQ(splitmix64(0), 0xe220a8397b1dcdafull);
  EXPECT_EQ(splitmix64(1), 0x910a2dec89025cc1ull);
}

TEST(RngKey, DiffersForEverySeedAndStep) {
  std::set<uint64_t> keys;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    for (uint64_t step = 0; step < 50; ++step) {
      const PhiloxKey key = RngKey{.seed = seed, .step = step}.philox();
      keys.insert(uint64_t{key.k1} << 32 | key.k0);
    }
  }
  EXPECT_EQ(keys.size(), 2500u);
}

TEST(StreamWord, DiffersForEveryLayerHeadAndPurpose) {
  std::set<uint32_t> words;
  for (int layer : {0, 1, 15, 4095}) {
    for (int head : {0, 1, 15, 4095}) {
      for (Purpose purpose :
           {Purpose::kEdgeCount, Purpose::kEdgeDraw, Purpose::kEdgeThin, Purpose::kEdgeTile,
            Purpose::kAttentionDropout, Purpose::kDropout, Purpose::kData}) {
        words.insert(stream_word(layer, head, purpose));
      }
    }
  }
  EXPECT_EQ(words.size(), 112u);
}

TEST(Uniform, StaysBelowOneAndReachesZero) {
  EXPECT_EQ(to_unit_float(0), 0.0f);
  EXPECT_EQ(to_unit_float(~0u), 1.0f - 0x1.0p-24f);
  EXPECT_EQ(to_unit_double(0, 0), 0.0);
  EXPECT_EQ(to_unit_double(~0u, ~0u), 1.0 - 0x1.0p-53);
  EXPECT_EQ(to_unit_float(0x80000000u), 0.5f);
  EXPECT_EQ(to_unit_double(0x80000000u, 0), 0.5);
}

}  // namespace
}  // namespace stipple
