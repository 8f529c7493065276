// SPDX-License-Identifier: Apache-2.0
// How attention's backward is cut into tasks. For the units that do so: those of an instruction set
// include bodies.h only.
#pragma once

#include <algorithm>

#include "kernels/cpu/attend/bodies.h"

namespace stipple::kernels::cpu {

/// How many edges are regrouped by key at once. In row order and in column order they should stay in
/// the second-level cache, unless that leaves a key so few of them that loading and storing its
/// gradients costs more.
inline int64_t chunk_edges(int64_t keys) {
  constexpr int64_t kFew = 32768;
  constexpr int64_t kMany = 131072;
  constexpr int64_t kPerKey = 16;
  return std::clamp(kPerKey * keys, kFew, kMany);
}

/// The tasks of backward. A problem is one while there are enough of them for the threads. The last
/// ones, when there are not, are cut by query and by key: scores and gradients of pairs are made
/// twice, and no number changes.
struct BackwardTasks {
  int64_t whole;  ///< problems that are one task
  int64_t cut;    ///< problems in 2 cuts tasks each
  int64_t cuts;
  int64_t count() const { return whole + 2 * cuts * cut; }
};

inline BackwardTasks backward_tasks(int64_t problems, int64_t threads) {
  const int64_t last = problems % threads;
  // A cut problem costs up to half as much again: with more of them than that, the others' idling is
  // cheaper.
  if (last == 0 || 3 * last > 2 * threads) return {problems, 0, 1};
  return {problems - last, last, (threads + last - 1) / last};
}

/// The n-th of `cuts` runs of `count` rows, in whole tiles.
inline Range cut_rows(int64_t count, int64_t n, int64_t cuts) {
  static_assert(kTileKeys % kBitTile == 0 && kTileKeys % kTileRows == 0);
  const int64_t tiles = (count + kTileKeys - 1) / kTileKeys;
  const auto border = [&](int64_t x) { return std::min(count, tiles * x / cuts * kTileKeys); };
  return {border(n), border(n + 1)};
}

/// Task t's problem goes into `number`.
inline BackwardPart backward_part(const BackwardTasks& tasks, int64_t t, int64_t num_queries,
                                  int64_t num_keys, int64_t& number) {
  BackwardPart part = {{0, num_queries}, {0, num_keys}, true, true};
  number = t;
  if (t < tasks.whole) return part;
  const int64_t in_cut = (t - tasks.whole) % (2 * tasks.cuts);
  number = tasks.whole + (t - tasks.whole) / (2 * tasks.cuts);
  part.by_key = in_cut < tasks.cuts;
  part.by_query = !part.by_key;
  Range& own = part.by_key ? part.keys : part.queries;
  own = cut_rows(own.end, in_cut % tasks.cuts, tasks.cuts);
  return part;
}

}  // namespace stipple::kernels::cpu
