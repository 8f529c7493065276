// SPDX-License-Identifier: Apache-2.0
// One row of alpha-entmax, by a warp: the scores that may have a weight stand in a list, and tau is
// found over that list. All functions are warp-wide.
//
// With x = (alpha - 1) z and `highest` the row's best x, everything is counted from there: y = x -
// highest, and tau lies in [-1, 0). So any score below the best so far by 1 can be left out at once.
// Up to alpha 2, t <- t + (S0 - S0^(2 - alpha)) / S1 with S0 = sum [y - t]_+^b, S1 = sum [y -
// t]_+^(b - 1), b = 1 / (alpha - 1), ascends from -1 to the root and never passes it; above alpha 2
// the map is not convex and is bisected.
#pragma once

#include "kernels/cuda/attend/edge.cuh"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/sums.h"

namespace stipple::kernels::cuda {

/// x^power with the usual powers of entmax for less.
struct EntmaxMap {
  float alpha = 1.5f;
  float b = 2.0f;  ///< 1 / (alpha - 1)

  __device__ explicit EntmaxMap(float of_alpha) : alpha(of_alpha), b(1.0f / (of_alpha - 1.0f)) {}

  /// [y - tau]_+ ^ b of u = y - tau > 0
  __device__ float mass(float u) const {
    if (alpha == 1.5f) return u * u;
    if (alpha == 2.0f) return u;
    return powf(u, b);
  }
  /// p^(2 - alpha), 0 at 0
  __device__ float slope(float p) const {
    if (alpha == 1.5f) return sqrtf(p);
    if (alpha == 2.0f) return p > 0.0f ? 1.0f : 0.0f;
    return p > 0.0f ? powf(p, 2.0f - alpha) : 0.0f;
  }
};

/// Scores and the keys that they are of, ascending by key, in global memory that only this warp
/// uses.
struct EntmaxList {
  float* score;   // [capacity]
  uint32_t* key;  // [capacity]
  int count = 0;
};

__device__ inline uint32_t lanes_below() { return (1u << lane_index()) - 1u; }

/// The largest over the lanes of a warp; NaN is ignored.
__device__ inline float lanes_max(float value) {
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2)
    value = fmaxf(value, shuffle_xor(value, mask));
  return value;
}

/// Appends the lanes' scores for which `stays`, in the order of the lanes.
__device__ inline void append(EntmaxList& list, float score, uint32_t key, bool stays) {
  const uint32_t votes = ballot(stays);
  if (stays) {
    const int at = list.count + popcount(votes & lanes_below());
    list.score[at] = score;
    list.key[at] = key;
  }
  list.count += popcount(votes);
}

/// Keeps the scores above `bound`, less `shift`, in their order.
__device__ inline void keep_above(EntmaxList& list, float shift, float bound) {
  EntmaxList kept{list.score, list.key};
  sync_warp();
  for (int first = 0; first < list.count; first += kWarpSize) {
    const int e = first + lane_index();
    const bool has = e < list.count;
    const float score = has ? list.score[e] - shift : 0.0f;
    const uint32_t key = has ? list.key[e] : 0;
    sync_warp();  // what follows writes at or before what all have read
    append(kept, score, key, has && score > bound);
  }
  sync_warp();
  list.count = kept.count;
}

struct EntmaxSums {
  float mass = 0.0f;   ///< S0
  float slope = 0.0f;  ///< S1
  int count = 0;       ///< scores above t
};

__device__ inline EntmaxSums sums_above(const EntmaxList& list, const EntmaxMap& map, float t) {
  EntmaxSums sums;
  for (int e = lane_index(); e < list.count; e += kWarpSize) {
    const float u = list.score[e] - t;
    if (!(u > 0.0f)) continue;
    const float mass = map.mass(u);
    sums.mass += mass;
    sums.slope += mass / u;
    ++sums.count;
  }
  return {lanes_sum(sums.mass), lanes_sum(sums.slope), lanes_sum(sums.count)};
}

/// The root over the list, a function of its scores and their order alone.
__device__ inline float entmax_root(const EntmaxList& list, const EntmaxMap& map) {
  constexpr int kMostSteps = 60;
  constexpr float kSmallStep = 1e-7f;
  float low = -1.0f;
  if (map.alpha > 2.0f) {
    float width = 1.0f;
    for (int step = 0; step < 30; ++step) {
      width *= 0.5f;
      if (sums_above(list, map, low + width).mass >= 1.0f) low += width;
    }
    return low;
  }
  for (int step = 0; step < kMostSteps; ++step) {
    const EntmaxSums s = sums_above(list, map, low);
    const float power = map.alpha == 1.5f   ? sqrtf(s.mass)
                        : map.alpha == 2.0f ? 1.0f
                                            : powf(s.mass, 2.0f - map.alpha);
    const float rise = (s.mass - power) / s.slope;
    if (!(rise > kSmallStep)) break;
    low += rise;
  }
  return low;
}

/// What a row's weights follow from: p = mass(y - tau) / mass.
struct EntmaxRoot {
  float highest = 0.0f;
  float tau = kInfinity;  ///< less `highest`; +inf: a row without keys
  float mass = 1.0f;
};

/// Reduces the list, which holds all scores above highest - 1 and maybe others, to the support, less
/// `highest`, and finishes tau over it alone: so that any set of keys that holds the support gives
/// the same bits.
__device__ inline EntmaxRoot solve(EntmaxList& list, const EntmaxMap& map, float highest) {
  constexpr float kRoundingOfRoot = 1e-6f;
  keep_above(list, highest, -1.0f);
  if (list.count == 0) return {};
  keep_above(list, 0.0f, entmax_root(list, map) - kRoundingOfRoot);
  for (;;) {
    const float tau = entmax_root(list, map);
    const EntmaxSums sums = sums_above(list, map, tau);
    if (sums.count == list.count) return {highest, tau, sums.mass};
    keep_above(list, 0.0f, tau);
  }
}

/// What a warp learns while it goes over a row's scores, 32 at a time.
struct EntmaxScan {
  EntmaxList list;
  float highest = -kInfinity;
  bool is_bad = false;  ///< a score is not a number, or +inf

  /// One score of each lane; -inf: none.
  __device__ void add(float x, uint32_t key) {
    is_bad = is_bad || ballot(!(x < kInfinity)) != 0;
    highest = fmaxf(highest, lanes_max(x));
    append(list, x, key, x > highest - 1.0f);
  }
};

/// Warps that work on rows one after the other, each with a list as long as a row.
struct EntmaxLists {
  float* score;   // [workers, capacity]
  uint32_t* key;  // [workers, capacity]
  int64_t capacity;
  int64_t workers;

  __device__ EntmaxList of(int64_t worker) const {
    return {score + worker * capacity, key + worker * capacity};
  }
};

/// Enough workers for all multiprocessors of a GPU, as far as the lists stay small. Fewer and shorter
/// rows take no more memory.
inline EntmaxLists alloc_entmax_lists(Arena& scratch, int64_t rows, int64_t capacity) {
  constexpr int64_t kLeastWorkers = 64, kMostWorkers = 4096;
  constexpr int64_t kMostEntries = int64_t{1} << 24;  // 128 MiB
  rows = std::max<int64_t>(rows, 1);
  capacity = std::max<int64_t>(capacity, 1);
  const int64_t entries = std::min(std::min(rows, kMostWorkers) * capacity,
                                   std::max(kMostEntries, kLeastWorkers * capacity));
  return {scratch.alloc<float>({entries}).data, scratch.alloc<uint32_t>({entries}).data, capacity,
          entries / capacity};
}

}  // namespace stipple::kernels::cuda
