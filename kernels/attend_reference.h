// SPDX-License-Identifier: Apache-2.0
// Attention of one problem in double precision, straight from its definition: every pair is looked
// at, and N x M numbers are kept. What the real operations are checked against, by tests and by a
// job that checks itself; host memory only, one thread, O(N M D).
//
//   Attention a{.n = n, .m = m, .d = d, .scale = ..., .q = ..., .k = ..., .v = ...,
//               .weight = pairs_of(pattern, p, n, m)};
//   exclude_masked_keys(a, key_mask);
//   a.keep = dropout_factors(dropout, sample, head, n, m);
//   const Output out = attend(a);
//   const Gradients g = attend_backward(a, dout, out.lse, delta(a, dout, out.o));
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/attend.h"

namespace stipple::kernels::reference {

using Doubles = std::vector<double>;

struct Attention {
  int64_t n = 0, m = 0, d = 0;
  double scale = 1.0;
  Doubles q;               // [N, D]
  Doubles k, v;            // [M, D]
  Doubles weight;          // [N, M]  of e^s: 0: no pair, 1, or how often an edge was drawn
  Doubles keep{};          // [N, M]  dropout's factor of a normalised weight; empty: 1
  Doubles score_factor{};  // [N, M]  of s; empty: 1

  double score(int64_t i, int64_t j) const;
};

struct Output {
  Doubles o;        // [N, D]
  Doubles lse;      // [N]     -inf: a row without pairs
  Doubles weights;  // [N, M]  normalised, before dropout
};
Output attend(const Attention&);

struct Gradients {
  Doubles dq, dk, dv;
  Doubles ds;  // [N, M]  of the scores
};
/// lse and delta of a part are those of the whole.
Gradients attend_backward(const Attention&, std::span<const double> dout,
                          std::span<const double> lse, std::span<const double> delta);

/// Softmax's delta [N]: dout . o.
Doubles delta(const Attention&, std::span<const double> dout, std::span<const double> o);

/// Weights [N, M] of problem p.
Doubles pairs_of(const Pattern&, int64_t p, int64_t n, int64_t m);
Doubles pairs_of(const EdgeSet&, int64_t p);
/// key_mask [M]; empty: all keys stay.
void exclude_masked_keys(Attention&, View<const uint8_t> key_mask);
/// [N, M], of sample b of the batch.
Doubles dropout_factors(const AttentionDropout&, int64_t b, int head, int64_t n, int64_t m);

}  // namespace stipple::kernels::reference
