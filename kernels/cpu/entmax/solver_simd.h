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
  float less_one;   ///< b - 1
  float last_step;  ///< after such a step, another would move less than a tenth of kTauError

  // Newton's error is its square by a curvature that is bounded up to alpha 1.5 only.
  explicit EntmaxCurve(float a)
      : alpha(a),
        less_one(1.0f / (a - 1.0f) - 1.0f),
        last_step(a <= 1.5f ? 4e-5f * (a - 1.0f) : 1e-7f) {}
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
  return first_lane(exp(logarithm(splat(x)) * splat(exponent)));
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

/// Newton's step on the norm, of a row a lane.
template <Power kPower>
inline Floats entmax_step(const EntmaxCurve<kPower>& curve, Floats weight, Floats slope) {
  if constexpr (kPower == Power::kLinear) return (weight - splat(1.0f)) / slope;
  if constexpr (kPower == Power::kSquare) return (weight - square_root(weight)) / slope;
  return (weight - exp(logarithm(weight) * splat(2.0f - curve.alpha))) / slope;
}

inline constexpr int kMostSteps = 60;

/// The search for the root over a list.
struct EntmaxSearch {
  const float* x = nullptr;
  int64_t count = 0;
  float low = 0.0f;   ///< a lower bound of the root
  float best = 0.0f;  ///< the largest of the list
};

/// tighten() of a row whose curve is not convex: halves what lies between bounds.
template <Power kPower>
inline void halve(const EntmaxCurve<kPower>& curve, EntmaxSearch& row, int steps) {
  float high = row.best;
  for (int step = 0; step < steps; ++step) {
    const float middle = row.low + (high - row.low) * 0.5f;
    if (!(middle > row.low && middle < high)) break;
    const EntmaxSums sums = entmax_sums(curve, row.x, row.count, middle);
    (sums.weight >= 1.0f ? row.low : high) = middle;
  }
}

/// Raises the lower bound by at most so many steps, fewer where none gains anything.
template <Power kPower>
inline void tighten(const EntmaxCurve<kPower>& curve, EntmaxSearch& row, int steps) {
  if (!curve.is_convex()) return halve(curve, row, steps);
  for (int step = 0; step < steps; ++step) {
    const EntmaxSums sums = entmax_sums(curve, row.x, row.count, row.low);
    const float up = first_lane(entmax_step(curve, splat(sums.weight), splat(sums.slope)));
    if (!(row.low < row.low + up)) break;
    row.low += up;
    if (up < curve.last_step) break;
  }
}

/// The same of up to kWidth rows side by side, as each step of one waits for the last: same bits.
template <Power kPower>
inline void tighten(const EntmaxCurve<kPower>& curve, EntmaxSearch* rows, int64_t num_rows,
                    int steps) {
  if (num_rows == 1 || !curve.is_convex()) {
    for (int64_t r = 0; r < num_rows; ++r) tighten(curve, rows[r], steps);
    return;
  }
  float low[kWidth] = {}, weight[kWidth] = {}, slope[kWidth] = {};
  for (int64_t r = 0; r < num_rows; ++r) low[r] = rows[r].low;
  uint32_t active = (1u << num_rows) - 1;
  for (int step = 0; step < steps && active != 0; ++step) {
    for (uint32_t rest = active; rest != 0; rest &= rest - 1) {
      const int r = __builtin_ctz(rest);
      const EntmaxSums sums = entmax_sums(curve, rows[r].x, rows[r].count, low[r]);
      weight[r] = sums.weight;
      slope[r] = sums.slope;
    }
    const Floats before = load(low);
    const Floats up = entmax_step(curve, load(weight), load(slope));
    const Mask gains = less(before, before + up) & mask_from_bits(active);
    store(low, select(gains, before + up, before));
    active = mask_bits(gains & !less(up, splat(curve.last_step)));
  }
  for (int64_t r = 0; r < num_rows; ++r) rows[r].low = low[r];
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

inline int stream_steps(bool is_convex, int steps) { return is_convex ? steps : 3 * steps; }

/// The largest score of each of kMostLanes parts of a block, which is a part of the row. allowed(e):
/// which of the scores from e on take part.
template <class Allowed>
inline void lane_maxima(float* lanes, const float* scores, int64_t count, const Allowed& allowed) {
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
  for (int64_t v = 0; v < kLaneVectors; ++v) store(lanes + v * kWidth, highest[v]);
}

/// First bounds of rows, from their lanes' maxima [num_rows, kMostLanes].
template <Power kPower>
inline void start_streams(const EntmaxCurve<kPower>& curve, EntmaxStream* rows, int64_t num_rows,
                          const float* lanes) {
  EntmaxSearch searches[kWidth];
  for (int64_t r = 0; r < num_rows; ++r) {
    const float* x = lanes + r * kMostLanes;
    const float best = highest_of(x, kLaneVectors * kWidth);
    searches[r] = {x, kLaneVectors * kWidth, best - 1.0f, best};
  }
  tighten(curve, searches, num_rows, stream_steps(curve.is_convex(), kStreamSteps));
  for (int64_t r = 0; r < num_rows; ++r) {
    const EntmaxSearch& search = searches[r];
    if (search.best < kEntmaxInfinity && search.low > rows[r].bound)
      rows[r].raise_bound(search.low);
  }
}

/// Raises bounds by what the candidates say, and drops those that they leave behind: of the rows
/// with more than `limit(row)`.
template <Power kPower, class Limit>
inline void tighten_streams(const EntmaxCurve<kPower>& curve, EntmaxStream* rows, int64_t num_rows,
                            const Limit& limit) {
  EntmaxSearch searches[kWidth];
  EntmaxStream* long_rows[kWidth];
  int64_t count = 0;
  for (int64_t r = 0; r < num_rows; ++r) {
    EntmaxStream& row = rows[r];
    if (row.count <= limit(row)) continue;
    end_list(row.scores, row.count);
    const float best = highest_of(row.scores, row.count);
    const float low = best - 1.0f > row.bound ? best - 1.0f : row.bound;
    searches[count] = {row.scores, row.count, low, best};
    long_rows[count++] = &row;
  }
  if (count == 0) return;
  tighten(curve, searches, count, stream_steps(curve.is_convex(), kStreamSteps));
  for (int64_t r = 0; r < count; ++r) {
    EntmaxStream& row = *long_rows[r];
    const EntmaxSearch& search = searches[r];
    if (search.low > -kEntmaxInfinity && search.best < kEntmaxInfinity) row.raise_bound(search.low);
    row.count = keep_above(row.scores, row.columns, row.scores, row.columns, row.count, row.cut);
    row.limit = 2 * row.count > kStreamLimit ? 2 * row.count : kStreamLimit;
  }
}

/// `count` more scores, of the keys from first_key on; NaN always goes through.
template <class Allowed>
inline void stream_scores(EntmaxStream& row, const float* scores, int64_t first_key, int64_t count,
                          const Allowed& allowed) {
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
}

// --- settled -------------------------------------------------------------------------------------

/// The search for the root over a support, every element of which is above it: done where alpha
/// knows a formula, else from a start that the support alone decides.
template <Power kPower>
inline EntmaxSearch support_search(const EntmaxCurve<kPower>& curve, const float* x, int64_t count,
                                   float best) {
  Floats sum = splat(0.0f), squares = splat(0.0f);
  for (int64_t e = 0; e < count; e += kWidth) {
    const Floats y = select(first_lanes(count - e), load(x + e) - splat(best), splat(0.0f));
    sum = sum + y;
    squares = fma(y, y, squares);
  }
  EntmaxSearch search = {x, count, best - 1.0f, best};
  const auto n = static_cast<float>(count);
  const float mean = reduce_add(sum) / n;
  if constexpr (kPower == Power::kLinear) search.low = best + (mean - 1.0f / n);
  if constexpr (kPower == Power::kSquare) {
    const float rest = (1.0f - (reduce_add(squares) - n * mean * mean)) / n;
    search.low = best + (mean - sqrtf(rest > 0.0f ? rest : 0.0f));
  }
  if constexpr (kPower == Power::kGeneral) {
    if (!curve.is_convex()) return search;
    // Means of u and, from b = 2 on, of u^2 are at most that of u^b to their powers.
    const float most = raise(n, 1.0f - curve.alpha);
    float distance = most;
    if (curve.alpha <= 1.5f) {
      const float rest = most * most - (reduce_add(squares) / n - mean * mean);
      distance = sqrtf(rest > 0.0f ? rest : 0.0f);
    }
    const float from_mean = best + (mean - distance);
    search.low = from_mean > search.low ? from_mean : search.low;
  }
  return search;
}

template <Power kPower>
inline void finish_searches(const EntmaxCurve<kPower>& curve, EntmaxSearch* rows,
                            int64_t num_rows) {
  if constexpr (kPower == Power::kGeneral) tighten(curve, rows, num_rows, kMostSteps);
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
    const float next = next_below(list, nextafterf(above, kEntmaxInfinity));
    float t = -kEntmaxInfinity;
    if (count > 0) {
      EntmaxSearch search = support_search(curve, list.spare_scores, count, best);
      finish_searches(curve, &search, 1);
      t = search.low;
    }
    if (count > 0 && next <= t) {
      memcpy(list.scores, list.spare_scores, static_cast<size_t>(count) * sizeof(float));
      memcpy(list.columns, list.spare_columns, static_cast<size_t>(count) * sizeof(uint32_t));
      list.count = count;
      end_list(list.scores, count);
      return t;
    }
    above = nextafterf(next, -kEntmaxInfinity);
  }
}

/// The largest of a list; +infinity where one is that or NaN.
inline float best_of(const EntmaxList& list) {
  Mask odd = mask_from_bits(0);
  Floats highest = splat(-kEntmaxInfinity);
  for (int64_t e = 0; e < list.count; e += kWidth) {
    const Floats x = load(list.scores + e);
    odd = odd | (!less(x, splat(kEntmaxInfinity)));
    highest = max(x, highest);
  }
  return mask_bits(odd) != 0 ? kEntmaxInfinity : reduce_max(highest);
}

/// Whether rounding leaves open on which side of the root an element is.
inline bool has_open_edge(const EntmaxList& list, float near, float error) {
  Mask open = mask_from_bits(0);
  for (int64_t e = 0; e < list.count; e += kWidth) {
    const Floats x = load(list.scores + e);
    open = open | (less(splat(near - error), x) & !less(splat(near + error), x));
  }
  return mask_bits(open) != 0;
}

/// tau of lists that hold the supports, which is what they then are; +infinity: none, NaN: a score is
/// NaN or +infinity. The support is the shortest list of best scores, equal ones together, of which
/// tau leaves no other above it: who else was in the list, or the lower bound where the search began
/// (in tau), does not show.
template <Power kPower>
inline void settle(const EntmaxCurve<kPower>& curve, EntmaxList* lists, float* tau,
                   int64_t num_rows) {
  EntmaxSearch searches[kWidth];
  for (int64_t r = 0; r < num_rows; ++r) {
    EntmaxList& list = lists[r];
    end_list(list.scores, list.count);
    const float best = best_of(list);
    if (!(best > -kEntmaxInfinity && best < kEntmaxInfinity)) list.count = 0;
    const float low = tau[r] > best - 1.0f ? tau[r] : best - 1.0f;
    searches[r] = {list.scores, list.count, low, best};
  }
  tighten(curve, searches, num_rows, kMostSteps);
  EntmaxSearch open[kWidth];
  int64_t number[kWidth];
  int64_t count = 0;
  for (int64_t r = 0; r < num_rows; ++r) {
    EntmaxList& list = lists[r];
    const float best = searches[r].best;
    if (list.count == 0) {
      tau[r] = best == kEntmaxInfinity ? std::numeric_limits<float>::quiet_NaN() : kEntmaxInfinity;
      continue;
    }
    const float near = searches[r].low;
    const float error = tau_error(near);
    if (has_open_edge(list, near, error)) {
      tau[r] = settle_edge(curve, list, best, near + error);
    } else {
      list.count = keep_above(list.scores, list.columns, list.scores, list.columns, list.count,
                              near + error);
      number[count] = r;
      open[count++] = support_search(curve, list.scores, list.count, best);
    }
  }
  finish_searches(curve, open, count);
  for (int64_t n = 0; n < count; ++n) tau[number[n]] = open[n].low;
  for (int64_t r = 0; r < num_rows; ++r) {
    const float best = searches[r].best;
    if (lists[r].count > 0 && !(tau[r] < best)) tau[r] = nextafterf(best, -kEntmaxInfinity);
  }
}

/// What is left of x above tau: at most 1, whatever was rounded of large numbers.
inline Floats above_tau(Floats x, float tau) {
  return min(splat(1.0f), max(splat(0.0f), x - splat(tau)));
}

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
