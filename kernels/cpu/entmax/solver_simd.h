// SPDX-License-Identifier: Apache-2.0
// tau of entmax, vectorised. Two steps. While scores stream by, a row keeps those above a lower bound
// of its tau: the root over any part of a row is one, and so is every iterate of Newton's method on
// the norm of [x - t]_+, which is convex up to alpha 2. Then tau is settled over what was kept,
// by a rule that the support alone decides.
//
// Lists of scores end in a vector of -infinity behind the last.
#pragma once

#include "kernels/cpu/simd.h"

namespace stipple::kernels::cpu::STIPPLE_SIMD {

inline constexpr float kEntmaxInfinity = std::numeric_limits<float>::infinity();

/// Roots are this exact, relative to 1 + |tau|.
inline constexpr float kTauError = 4e-6f;
inline float tau_error(float t) { return kTauError * (1.0f + fabsf(t)); }

// --- the curve -----------------------------------------------------------------------------------

/// u^b and u^(b - 1) with b = 1 / (alpha - 1), which alpha 1.5 and 2 make cheap.
enum class Power { kSquare, kLinear, kGeneral };

inline Power power_of(float alpha) {
  return alpha == 1.5f ? Power::kSquare : alpha == 2.0f ? Power::kLinear : Power::kGeneral;
}

template <Power kPower>
struct EntmaxCurve {
  float alpha;
  float less_one;  ///< b - 1

  explicit EntmaxCurve(float a) : alpha(a), less_one(1.0f / (a - 1.0f) - 1.0f) {}
  bool is_convex() const { return kPower != Power::kGeneral || alpha <= 2.0f; }

  /// u^(b - 1), 0 at 0.
  Floats slope(Floats u) const {
    if constexpr (kPower == Power::kSquare) return u;
    const Mask positive = less(splat(0.0f), u);
    if constexpr (kPower == Power::kLinear) return select(positive, splat(1.0f), splat(0.0f));
    return select(positive, exp(logarithm(u) * splat(less_one)), splat(0.0f));
  }
};

/// x^exponent of a positive number.
inline float raise(float x, float exponent) {
  return reduce_max(exp(logarithm(splat(x)) * splat(exponent)));
}

struct EntmaxSums {
  float weight;  ///< sum of u^b
  float slope;   ///< sum of u^(b - 1)
};

template <Power kPower>
inline EntmaxSums entmax_sums(const EntmaxCurve<kPower>& curve, const float* x, int64_t count,
                              float t) {
  Floats weight = splat(0.0f), slope = splat(0.0f);
  for (int64_t e = 0; e < count; e += kWidth) {
    const Floats u = max(splat(0.0f), load(x + e) - splat(t));
    const Floats s = curve.slope(u);
    weight = fma(s, u, weight);
    slope = slope + s;
  }
  return {reduce_add(weight), reduce_add(slope)};
}

/// Newton's step on the norm.
template <Power kPower>
inline float entmax_step(const EntmaxCurve<kPower>& curve, EntmaxSums s) {
  if constexpr (kPower == Power::kLinear) return (s.weight - 1.0f) / s.slope;
  if constexpr (kPower == Power::kSquare) {
    return (s.weight - _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(s.weight)))) / s.slope;
  }
  return (s.weight - raise(s.weight, 2.0f - curve.alpha)) / s.slope;
}

inline constexpr int kMostSteps = 60;

/// A higher lower bound of the root over a list with largest element `best`: by at most so many
/// steps, fewer where none gains anything.
template <Power kPower>
inline float tighten(const EntmaxCurve<kPower>& curve, const float* x, int64_t count, float low,
                     float best, int steps) {
  if (curve.is_convex()) {
    for (int step = 0; step < steps; ++step) {
      const float up = entmax_step(curve, entmax_sums(curve, x, count, low));
      if (!(low + up > low)) break;
      low += up;
      if (up < 1e-7f) break;
    }
    return low;
  }
  float high = best;
  for (int step = 0; step < steps; ++step) {
    const float middle = low + (high - low) * 0.5f;
    if (!(middle > low && middle < high)) break;
    (entmax_sums(curve, x, count, middle).weight >= 1.0f ? low : high) = middle;
  }
  return low;
}

inline float highest_of(const float* x, int64_t count) {
  Floats highest = splat(-kEntmaxInfinity);
  for (int64_t e = 0; e < count; e += kWidth) highest = max(load(x + e), highest);
  return reduce_max(highest);
}

inline void end_list(float* x, int64_t count) { store(x + count, splat(-kEntmaxInfinity)); }

/// Keeps what exceeds `cut`, in order; returns how many that are. The target may be the list.
inline int64_t keep_above(float* to_scores, uint32_t* to_columns, const float* scores,
                          const uint32_t* columns, int64_t count, float cut) {
  int64_t kept = 0;
  for (int64_t e = 0; e < count; e += kWidth) {
    const Floats x = load(scores + e);
    const Mask lanes = exceeds(x, splat(cut)) & first_lanes(count - e);
    compress_store(to_columns + kept, load(columns + e), lanes);
    kept += compress_store(to_scores + kept, x, lanes);
  }
  end_list(to_scores, kept);
  return kept;
}

// --- while scores stream by ----------------------------------------------------------------------

inline constexpr int64_t kStreamLimit = 64;  ///< candidates before a bound is tightened
inline constexpr int64_t kLaneVectors = 4;   ///< of running maxima
inline constexpr int64_t kMostLanes = 16 * kLaneVectors;
inline constexpr int kStreamSteps = 2;
inline constexpr int kStreamHalvings = 6;

/// What a row has seen of its scores. What is below the cut can no longer be in the support.
struct EntmaxStream {
  float* scores;
  uint32_t* columns;
  float slack =
      0.0f;  ///< by how much a score here may differ from the one that tau is settled with
  float bound = -kEntmaxInfinity;
  float cut = -kEntmaxInfinity;
  int64_t count = 0;
  int64_t limit = kStreamLimit;

  void raise_bound(float t) {
    bound = t;
    cut = t - 2.0f * slack - tau_error(t);
  }
};

/// The first bound, from the largest of each of kMostLanes parts of a block. allowed(e): which of
/// the scores from e on take part.
template <Power kPower, class Allowed>
inline void start_stream(const EntmaxCurve<kPower>& curve, EntmaxStream& row, const float* scores,
                         int64_t count, const Allowed& allowed) {
  Floats highest[kLaneVectors];
  for (Floats& x : highest) x = splat(-kEntmaxInfinity);
  for (int64_t e = 0; e < count; e += kLaneVectors * kWidth) {
    for (int64_t v = 0; v < kLaneVectors; ++v) {
      const int64_t at = e + v * kWidth;
      if (at >= count) break;
      const Floats x = select(allowed(at), load(scores + at), splat(-kEntmaxInfinity));
      highest[v] = max(x, highest[v]);
    }
  }
  float lanes[kMostLanes];
  for (int64_t v = 0; v < kLaneVectors; ++v) store(lanes + v * kWidth, highest[v]);
  const float best = highest_of(lanes, kLaneVectors * kWidth);
  if (!(best > -kEntmaxInfinity && best < kEntmaxInfinity)) return;
  row.raise_bound(tighten(curve, lanes, kLaneVectors * kWidth, best - 1.0f, best,
                          curve.is_convex() ? kStreamSteps + 1 : kStreamHalvings));
}

/// Raises the bound by what the candidates say, and drops those that it leaves behind.
template <Power kPower>
inline void tighten_stream(const EntmaxCurve<kPower>& curve, EntmaxStream& row) {
  end_list(row.scores, row.count);
  const float best = highest_of(row.scores, row.count);
  const float low = best - 1.0f > row.bound ? best - 1.0f : row.bound;
  if (low > -kEntmaxInfinity && best < kEntmaxInfinity) {
    row.raise_bound(tighten(curve, row.scores, row.count, low, best,
                            curve.is_convex() ? kStreamSteps : kStreamHalvings));
  }
  row.count = keep_above(row.scores, row.columns, row.scores, row.columns, row.count, row.cut);
  row.limit = 2 * row.count > kStreamLimit ? 2 * row.count : kStreamLimit;
}

/// `count` more scores, of the keys from first_key on; NaN always goes through.
template <Power kPower, class Allowed>
inline void stream_scores(const EntmaxCurve<kPower>& curve, EntmaxStream& row, const float* scores,
                          int64_t first_key, int64_t count, const Allowed& allowed) {
  if (row.bound == -kEntmaxInfinity) start_stream(curve, row, scores, count, allowed);
  const Floats cut = splat(row.cut);
  float* to_scores = row.scores + row.count;
  uint32_t* to_columns = row.columns + row.count;
  for (int64_t e = 0; e < count; e += kWidth) {
    const Floats x = load(scores + e);
    const Mask lanes = exceeds(x, cut) & allowed(e);
    if (mask_bits(lanes) == 0) continue;
    compress_store(to_columns, iota() + splat_words(static_cast<uint32_t>(first_key + e)), lanes);
    const int kept = compress_store(to_scores, x, lanes);
    to_scores += kept;
    to_columns += kept;
  }
  row.count = to_scores - row.scores;
  if (row.count > row.limit) tighten_stream(curve, row);
}

// --- settled -------------------------------------------------------------------------------------

/// The root over a support, every element of which is above it.
template <Power kPower>
inline float solve_support(const EntmaxCurve<kPower>& curve, const float* x, int64_t count,
                           float best) {
  Floats sum = splat(0.0f), squares = splat(0.0f);
  for (int64_t e = 0; e < count; e += kWidth) {
    const Floats y = select(first_lanes(count - e), load(x + e) - splat(best), splat(0.0f));
    sum = sum + y;
    squares = fma(y, y, squares);
  }
  const auto n = static_cast<float>(count);
  const float mean = reduce_add(sum) / n;
  if constexpr (kPower == Power::kLinear) return best + (mean - 1.0f / n);
  if constexpr (kPower == Power::kSquare) {
    const float rest = (1.0f - (reduce_add(squares) - n * mean * mean)) / n;
    return best + (mean - sqrtf(rest > 0.0f ? rest : 0.0f));
  }
  float low = best - 1.0f;
  if (curve.is_convex()) {
    // The mean of u is at most that of u^b, to the power 1 / b.
    const float from_mean = best + (mean - raise(n, 1.0f - curve.alpha));
    low = from_mean > low ? from_mean : low;
  }
  return tighten(curve, x, count, low, best, kMostSteps);
}

/// A list that tau is to be settled over, and room for another.
struct EntmaxList {
  float* scores;
  uint32_t* columns;
  int64_t count;
  float* spare_scores;
  uint32_t* spare_columns;
};

/// The largest score below `limit`.
inline float next_below(const EntmaxList& list, float limit) {
  Floats highest = splat(-kEntmaxInfinity);
  for (int64_t e = 0; e < list.count; e += kWidth) {
    const Floats x = load(list.scores + e);
    highest = max(highest, select(less(x, splat(limit)), x, splat(-kEntmaxInfinity)));
  }
  return reduce_max(highest);
}

/// What rounding leaves open: the support grows by the next best, equal ones together, until tau
/// leaves none above it. Leaves it as the list.
template <Power kPower>
inline float settle_edge(const EntmaxCurve<kPower>& curve, EntmaxList& list, float best,
                         float certain) {
  float above = certain;
  for (;;) {
    const int64_t count = keep_above(list.spare_scores, list.spare_columns, list.scores,
                                     list.columns, list.count, above);
    const float next = above;
    const float t =
        count == 0 ? -kEntmaxInfinity : solve_support(curve, list.spare_scores, count, best);
    if (count > 0 && next_below(list, nextafterf(next, kEntmaxInfinity)) <= t) {
      memcpy(list.scores, list.spare_scores, static_cast<size_t>(count) * sizeof(float));
      memcpy(list.columns, list.spare_columns, static_cast<size_t>(count) * sizeof(uint32_t));
      list.count = count;
      end_list(list.scores, count);
      return t;
    }
    above = nextafterf(next_below(list, nextafterf(next, kEntmaxInfinity)), -kEntmaxInfinity);
  }
}

/// tau of a list that holds the support, which is what it then is; +infinity: none, NaN: a score is
/// NaN or +infinity. The support is the shortest list of best scores, equal ones together, of which
/// tau leaves no other above it: who else was in the list, or where the search began, does not show.
template <Power kPower>
inline float settle(const EntmaxCurve<kPower>& curve, EntmaxList& list, float start) {
  end_list(list.scores, list.count);
  Mask odd = mask_from_bits(0);
  Floats highest = splat(-kEntmaxInfinity);
  for (int64_t e = 0; e < list.count; e += kWidth) {
    const Floats x = load(list.scores + e);
    odd = odd | (!less(x, splat(kEntmaxInfinity)));
    highest = max(x, highest);
  }
  if (mask_bits(odd) != 0) {
    list.count = 0;
    return std::numeric_limits<float>::quiet_NaN();
  }
  const float best = reduce_max(highest);
  if (best == -kEntmaxInfinity) {
    list.count = 0;
    return kEntmaxInfinity;
  }
  const float low = start > best - 1.0f ? start : best - 1.0f;
  const float near = tighten(curve, list.scores, list.count, low, best, kMostSteps);
  const float error = tau_error(near);
  Mask open = mask_from_bits(0);
  for (int64_t e = 0; e < list.count; e += kWidth) {
    const Floats x = load(list.scores + e);
    open = open | (less(splat(near - error), x) & !less(splat(near + error), x));
  }
  float tau;
  if (mask_bits(open) == 0) {
    list.count =
        keep_above(list.scores, list.columns, list.scores, list.columns, list.count, near + error);
    tau = solve_support(curve, list.scores, list.count, best);
  } else {
    tau = settle_edge(curve, list, best, near + error);
  }
  return tau < best ? tau : nextafterf(best, -kEntmaxInfinity);
}

/// What is left of x above tau: at most 1, whatever was rounded of large numbers.
inline Floats above_tau(Floats x, float tau) {
  return min(splat(1.0f), max(splat(0.0f), x - splat(tau)));
}

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
