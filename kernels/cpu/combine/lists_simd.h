// SPDX-License-Identifier: Apache-2.0
// Vectorised attention over spans of doubling length: a query has one key a level, so its few keys
// are listed and done at once, row by row. Passes of one key would cost a tile each.
#pragma once

#include "kernels/cpu/combine/passes_simd.h"

namespace stipple::kernels::cpu::STIPPLE_SIMD {

/// The keys of a query of Logsparse: two tokens and a span a level.
struct KeyList {
  static constexpr int64_t kMost = 64;
  const float* q[kMost];
  const float* k[kMost];
  const float* v[kMost];
  float bias[kMost];
  uint32_t id[kMost];  ///< of the token or region
  int64_t direct = 0;  ///< the first are tokens
  int64_t count = 0;

  void add(const float* query, const float* key, const float* value, float score_bias,
           int64_t number) {
    q[count] = query;
    k[count] = key;
    v[count] = value;
    bias[count] = score_bias;
    id[count] = static_cast<uint32_t>(number);
    ++count;
  }
  /// Repeats the last key up to a whole vector, where it counts for nothing.
  void fill_up() {
    const int64_t real = count;
    while (count % kWidth != 0)
      add(q[real - 1], k[real - 1], v[real - 1], -kInfinity, id[real - 1]);
    count = real;
  }
};

inline KeyList list_keys(const CombineProblem& p, const float* region_bias, int64_t i) {
  KeyList list;
  const Partition& cut = p.partition;
  const float* q = p.q + i * p.dim;
  const auto add_token = [&](int64_t j) {
    const bool is_seen = j < cut.length && (!cut.is_causal || j <= i);
    if (is_seen && (p.mask == nullptr || p.mask[j] != 0))
      list.add(q, p.k + j * p.dim, p.v + j * p.dim, 0.0f, j);
  };
  add_token(i);
  add_token(i ^ 1);
  list.direct = list.count;
  int64_t first = 0;
  for (int64_t level = 1; int64_t{1} << level < cut.length; ++level) {
    const int64_t own = i >> level, spans = cut.num_spans(level), r = first + (own ^ 1);
    first += spans;
    if ((own ^ 1) >= spans || (cut.is_causal && own % 2 == 0) || p.region_tokens[r] == 0) continue;
    list.add(p.region_q + i * p.dim, p.region_key + r * p.dim, p.region_value + r * p.dim,
             region_bias[r], r);
  }
  if (list.count > 0) list.fill_up();
  return list;
}

/// What each region adds to its scores, and log tokens, where they are wanted.
inline void make_region_bias(const CombineProblem& p, const CombineBuffers& b) {
  for (int64_t r = 0; r < p.partition.num_regions(); ++r) {
    const bool wants_log = (p.mass != 0.0f || p.dmass != nullptr) && p.region_tokens[r] > 0;
    const float log_tokens = wants_log ? logf(static_cast<float>(p.region_tokens[r])) : 0.0f;
    b.bias[r] = p.mass * log_tokens;
    if (p.dmass != nullptr) b.log_tokens[r] = log_tokens;
  }
}

/// a[e] . b[e] of kWidth pairs of rows.
inline Floats dots(const float* const* a, const float* const* b, int64_t dim) {
  Floats sums[kWidth];
#pragma GCC unroll 16
  for (int e = 0; e < kWidth; ++e) sums[e] = partial_dot(a[e], b[e], dim);
  return reduce_add_each(sums);
}

/// Which of keys [e, e + kWidth) are tokens.
inline Mask direct_lanes(const KeyList& list, int64_t e) {
  return first_lanes(list.direct < e ? 0 : list.direct - e);
}

/// Factors of dropout for keys [e, e + kWidth) of query i.
inline Floats list_factors(const CombineProblem& p, const KeyList& list, int64_t i, int64_t e) {
  const Words number = load(list.id + e);
  const Words behind_tokens = splat_words(static_cast<uint32_t>(p.partition.length));
  const Words id = select(direct_lanes(list, e), number, number + behind_tokens);
  const auto factors = [&](const DropoutStream& d) {
    return d.on ? select(keeps(d, i, id), splat(d.rescale), splat(0.0f)) : splat(1.0f);
  };
  return select(direct_lanes(list, e), factors(p.dropout), factors(p.region_dropout));
}

inline bool drops(const CombineProblem& p) { return p.dropout.on || p.region_dropout.on; }

/// out = sum of factors[e] rows[e].
inline void sum_rows(float* out, const float* factors, const float* const* rows, int64_t count,
                     int64_t dim) {
  for (int64_t x = 0; x < dim; x += kWidth) {
    const Mask lanes = first_lanes(dim - x);
    Floats sum = splat(0.0f);
    for (int64_t e = 0; e < count; ++e) sum = fma(splat(factors[e]), load(rows[e] + x, lanes), sum);
    store(out + x, sum, lanes);
  }
}

inline void add_row(float* out, float factor, const float* row, int64_t dim) {
  for (int64_t x = 0; x < dim; x += kWidth) {
    const Mask lanes = first_lanes(dim - x);
    store(out + x, fma(splat(factor), load(row + x, lanes), load(out + x, lanes)), lanes);
  }
}

inline void forward_list(const CombineProblem& p, const KeyList& list, int64_t i) {
  float* o = p.o + i * p.dim;
  p.lse[i] = -kInfinity;
  if (list.count == 0) {
    memset(o, 0, static_cast<size_t>(p.dim) * sizeof(float));
    return;
  }
  float weights[KeyList::kMost + kWidth];
  for (int64_t e = 0; e < list.count; e += kWidth) {
    const Floats score = dots(list.q + e, list.k + e, p.dim);
    store(weights + e, fma(score, splat(p.scale), load(list.bias + e)));
  }
  store(weights + list.count, splat(-kInfinity));
  const float highest = highest_score(weights, list.count);
  Floats sum = splat(0.0f), of_regions = splat(0.0f), tilt = splat(0.0f);
  for (int64_t e = 0; e < list.count; e += kWidth) {
    const Floats above_max = load(weights + e) - splat(highest);
    Floats weight = exp(above_max);
    sum = sum + weight;
    const Floats region = select(direct_lanes(list, e), splat(0.0f), weight);
    of_regions = of_regions + region;
    tilt = tilt + tilt_of(region, above_max);
    if (drops(p)) weight = weight * list_factors(p, list, i, e);
    store(weights + e, weight);
  }
  const float total = reduce_add(sum);
  for (int64_t e = 0; e < list.count; e += kWidth)
    store(weights + e, load(weights + e) * splat(1.0f / total));
  sum_rows(o, weights, list.v, list.count, p.dim);
  p.lse[i] = highest + logf(total);
  if (p.facts != nullptr)
    tell_facts(p, i, double{total}, double{reduce_add(of_regions)}, double{reduce_add(tilt)});
}

inline void forward_lists(const CombineProblem& p, const CombineBuffers& b) {
  make_region_bias(p, b);
  for (int64_t i = p.first_query; i < p.end_query; ++i) forward_list(p, list_keys(p, b.bias, i), i);
}

inline void backward_list(const CombineProblem& p, const CombineBuffers& b, const KeyList& list,
                          int64_t i) {
  float ds[KeyList::kMost + kWidth], weights[KeyList::kMost + kWidth];
  const float* dout = p.dout + i * p.dim;
  const float* douts[kWidth];
  for (const float*& row : douts) row = dout;
  float dmass = 0.0f;
  for (int64_t e = 0; e < list.count; e += kWidth) {
    const Floats score =
        fma(dots(list.q + e, list.k + e, p.dim), splat(p.scale), load(list.bias + e));
    const Floats weight = exp(score - splat(p.final_lse[i]));
    const Floats factor = drops(p) ? list_factors(p, list, i, e) : splat(1.0f);
    const Floats dweight = dots(douts, list.v + e, p.dim);
    store(weights + e, weight * factor);
    store(ds + e, weight * (factor * dweight - splat(p.delta[i])) * splat(p.scale));
  }
  sum_rows(p.dq + i * p.dim, ds, list.k, list.direct, p.dim);
  for (int64_t e = 0; e < list.count; ++e) {
    const bool is_direct = e < list.direct;
    const int64_t row = int64_t{list.id[e]} * p.dim;
    add_row((is_direct ? p.dk : p.dregion_key) + row, ds[e], list.q[e], p.dim);
    add_row((is_direct ? p.dv : p.dregion_value) + row, weights[e], dout, p.dim);
    if (is_direct) continue;
    add_row(p.dregion_q + i * p.dim, ds[e], list.k[e], p.dim);
    if (p.dmass != nullptr) dmass += ds[e] * b.log_tokens[list.id[e]];
  }
  if (p.dmass != nullptr) *p.dmass += static_cast<double>(dmass / p.scale);
}

inline void backward_lists(const CombineProblem& p, const CombineBuffers& b) {
  make_region_bias(p, b);
  for (int64_t i = 0; i < p.partition.length; ++i) {
    const KeyList list = list_keys(p, b.bias, i);
    if (list.count > 0) backward_list(p, b, list, i);
  }
}

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
