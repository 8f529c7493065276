// SPDX-License-Identifier: Apache-2.0
// Combiner attention of one problem in double precision, straight from its definition: who sees what
// is asked token by token and the N x N matrix that it amounts to is written out. What the real
// operations are checked against, by tests and by a job that checks itself; host memory only, one
// thread, O(N^2 D) and more.
//
//   Combiner c{.partition = ..., .d = d, .scale = ..., .q = ..., .k = ..., .v = ...};
//   const CombinerOutput out = combine(c);     // out.o = out.weights v
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/attend_reference.h"
#include "kernels/combine.h"

namespace stipple::kernels::reference {

struct Combiner {
  Partition partition;
  int64_t d = 0;
  double scale = 1.0;
  Doubles q, k, v;              // [N, D]
  Doubles region_q{};           // [N, D]  what regions are scored with; empty: q
  Doubles pooled_q{};           // [N, D]  what their queries are pooled from; empty: q
  Doubles pooled_k{};           // [N, D]  and their keys; empty: k
  std::vector<uint8_t> mask{};  // [N]  empty: all
  RegionPool pool = RegionPool::kMax;
  RegionKey key = RegionKey::kPooled;
  double mass = 0.0;
  Doubles keep{};         // [N, N]  dropout's factors of direct weights; empty: 1
  Doubles keep_region{};  // [N, R]
  Doubles keep_local{};   // [R, N]
};

/// A region as one query sees it: which tokens, which number the partition gives it.
struct SeenRegion {
  std::vector<int64_t> tokens;
  int64_t asks = -1;
  int64_t number = 0;
};
struct Seen {
  std::vector<int64_t> direct;
  std::vector<SeenRegion> regions;
};
/// What query i sees, by definition (docs/attention/combiner.md), padding or not.
Seen seen_by(const Partition&, int64_t i);

struct CombinerOutput {
  Doubles o;        // [N, D]
  Doubles lse;      // [N]
  Doubles weights;  // [N, N]  after dropout
  Doubles direct;   // [N]     the weight of all direct keys together
  Doubles entropy;  // [N]     of the weights among a query's regions; -1: it sees none
};
CombinerOutput combine(const Combiner&);

}  // namespace stipple::kernels::reference
