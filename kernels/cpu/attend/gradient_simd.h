// SPDX-License-Identifier: Apache-2.0
// Gradients of a vector of pairs, from their scores and dA: what all ways of attention backward have
// in common.
#pragma once

#include "kernels/cpu/attend/dropout_simd.h"

namespace stipple::kernels::cpu::STIPPLE_SIMD {

/// The gradients of one vector of pairs (i, j).
struct PairGradient {
  Floats dscore;
  Floats weight;
  Floats dp;
};

struct RowConstants {
  int64_t i;
  Floats lse;
  Floats delta;  ///< do . o = sum_j W t, with dropout, too
};

inline float delta_of(const AttendProblem& p, int64_t i) {
  return p.delta != nullptr ? p.delta[i] : dot(p.dout + i * p.dim, p.final_o + i * p.dim, p.dim);
}

inline RowConstants row_constants(const AttendProblem& p, int64_t i) {
  return {i, splat(p.final_lse[i]), splat(delta_of(p, i))};
}

/// docs/attention/sbm.md, backward. `score` is scaled, `dweight` is do . v, `keep` the dropout
/// bits, `counts` key_mask; drawn: multiplicities.
inline PairGradient pair_gradient(const AttendProblem& p, const RowConstants& row, Words j,
                                  Floats score, Floats dweight, Floats drawn, Mask counts,
                                  Mask keep) {
  const Floats weight = select(counts, drawn * exp(score - row.lse), splat(0.0f));
  const Floats factor = select(keep, splat(p.dropout.rescale), splat(0.0f));
  const Floats ds = weight * (factor * dweight - row.delta);
  PairGradient gradient{ds * splat(p.scale), weight * factor, splat(0.0f)};
  if (p.clusters == 0) return gradient;
  const Floats f = p.rule == SteRule::kPaper ? select(counts, ds * score, splat(0.0f)) : ds;
  const Floats limit = splat(p.clip);
  gradient.dp = min(limit, max(splat(0.0f) - limit, f + splat(p.regularizer)));
  if (p.window_radius >= 0) {
    // Unsigned: what lies before the window is far beyond it.
    const Words place = j - splat_words(static_cast<uint32_t>(row.i - p.window_radius));
    const Mask near = less(place, splat_words(static_cast<uint32_t>(2 * p.window_radius + 1)));
    gradient.dp = select(near, splat(0.0f), gradient.dp);
  }
  return gradient;
}

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
