// SPDX-License-Identifier: Apache-2.0
// The rules of kernels/place_groups.h as every backend asks them, token by token.
#pragma once

#include <bit>
#include <cstdint>

#include "core/host_device.h"
#include "core/rng.h"

namespace stipple::kernels::math {

enum class PlaceRuleKind : uint8_t { kRandomBlocks, kRandomTokens, kFixed, kStrided };

inline constexpr int64_t kMostRandomTokens = 64;

/// Plain data.
struct PlaceRule {
  static constexpr int32_t kNone = -1;

  PlaceRuleKind kind = PlaceRuleKind::kFixed;
  int64_t size = 1;     ///< of a block; the stride
  int64_t count = 1;    ///< kRandomBlocks: of a query; kRandomTokens: of a head
  int64_t summary = 1;  ///< kFixed: keys of a block that all see
  int64_t longest = 1;  ///< kRandomTokens, where causal: among how many places they are drawn
  bool is_causal = false;

  STIPPLE_HD static int64_t blocks(int64_t tokens, int64_t size) {
    return (tokens + size - 1) / size;
  }

  /// Of token i among `length` real ones: T groups as a query and as a key.
  STIPPLE_HD void write(float draw, int64_t i, int64_t length, int64_t slots, int32_t* query,
                        int32_t* key) const {
    for (int64_t t = 0; t < slots; ++t) query[t] = key[t] = kNone;
    switch (kind) {
      case PlaceRuleKind::kRandomBlocks:
        choose(draw, i + 1, is_causal ? i / size + 1 : blocks(length, size), query);
        key[0] = static_cast<int32_t>(i / size);
        return;
      case PlaceRuleKind::kRandomTokens:
        // Group 0: all queries and the chosen keys; group 1: the chosen queries and all keys.
        query[0] = 0;
        key[1] = 1;
        if (is_chosen(draw, i, is_causal ? longest : length)) {
          query[1] = 1;
          key[0] = 0;
        }
        return;
      case PlaceRuleKind::kFixed:
        query[0] = key[0] = static_cast<int32_t>(i / size) + 1;
        query[1] = 0;
        if (i % size >= size - summary) key[1] = 0;
        return;
      case PlaceRuleKind::kStrided:
        query[0] = key[0] = static_cast<int32_t>(i % size);
        return;
    }
  }

 private:
  /// `count` different numbers below `among`, or all of them, by Floyd's algorithm; draws of one row
  /// are nobody else's.
  STIPPLE_HD void choose(float draw, int64_t row, int64_t among, int32_t* chosen) const {
    if (among <= count) {
      for (int64_t t = 0; t < among; ++t) chosen[t] = static_cast<int32_t>(t);
      return;
    }
    const PhiloxKey key{std::bit_cast<uint32_t>(draw), static_cast<uint32_t>(kind)};
    for (int64_t t = 0; t < count; ++t) {
      const auto last = static_cast<uint64_t>(among - count + t);
      const PhiloxCounter bits =
          philox4x32({static_cast<uint32_t>(t), static_cast<uint32_t>(row), 0, 0}, key);
      auto pick = static_cast<int32_t>(bits[0] * (last + 1) >> 32);
      for (int64_t s = 0; s < t; ++s)
        if (chosen[s] == pick) pick = static_cast<int32_t>(last);
      chosen[t] = pick;
    }
  }
  STIPPLE_HD bool is_chosen(float draw, int64_t i, int64_t among) const {
    int32_t chosen[kMostRandomTokens];
    choose(draw, 0, among, chosen);
    const int64_t drawn = among < count ? among : count;
    for (int64_t t = 0; t < drawn; ++t)
      if (chosen[t] == i) return true;
    return false;
  }
};

}  // namespace stipple::kernels::math
