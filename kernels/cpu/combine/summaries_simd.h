// SPDX-License-Identifier: Apache-2.0
// Vectorised summaries of regions: the tokens of a region that count are listed once; pooling,
// scores and sums walk over the list.
#pragma once

#include "kernels/cpu/attend/forward_simd.h"
#include "kernels/cpu/combine/bodies.h"

namespace stipple::kernels::cpu::STIPPLE_SIMD {

inline int64_t list_tokens(const SummaryProblem& p, const Line& tokens, uint32_t* list) {
  int64_t count = 0;
  for (int64_t e = 0; e < tokens.count; ++e) {
    list[count] = static_cast<uint32_t>(tokens[e]);
    count += p.mask == nullptr || p.mask[tokens[e]] != 0;
  }
  return count;
}

/// The token that asks for the region, or who stands in for it where it does not count: the last one
/// before it, else the first one behind it.
inline uint32_t who_asks(const Region& region, const uint32_t* list, int64_t count) {
  uint32_t asks = list[0];
  for (int64_t e = 0; e < count && list[e] <= region.asks; ++e) asks = list[e];
  return asks;
}

// --- pooling -------------------------------------------------------------------------------------

/// Channels [x, x + kWidth) of the maximum, the first token's among equal ones.
inline void pool_max(const float* rows, int64_t dim, const uint32_t* list, int64_t count,
                     float* out, int32_t* from, int64_t x) {
  const Mask lanes = first_lanes(dim - x);
  Floats best = load(rows + list[0] * dim + x, lanes);
  Words where = splat_words(list[0]);
  for (int64_t e = 1; e < count; ++e) {
    const Floats value = load(rows + list[e] * dim + x, lanes);
    const Mask higher = less(best, value);
    best = select(higher, value, best);
    where = select(higher, splat_words(list[e]), where);
  }
  store(out + x, best, lanes);
  store(reinterpret_cast<uint32_t*>(from) + x, where, lanes);
}

inline void pool_sum(const float* rows, int64_t dim, const uint32_t* list, int64_t count,
                     float* out, float share, int64_t x) {
  const Mask lanes = first_lanes(dim - x);
  Floats sum = splat(0.0f);
  for (int64_t e = 0; e < count; ++e) sum = sum + load(rows + list[e] * dim + x, lanes);
  store(out + x, sum * splat(share), lanes);
}

/// What a pooled row's gradient is multiplied with for each of its tokens.
inline float pool_share(const SummaryProblem& p, int64_t count) {
  return p.pool == RegionPool::kMean ? 1.0f / static_cast<float>(count) : 1.0f;
}

inline void pool_rows(const SummaryProblem& p, const float* rows, const uint32_t* list,
                      int64_t count, float* out, int32_t* from) {
  for (int64_t x = 0; x < p.dim; x += kWidth) {
    if (p.pool == RegionPool::kMax) {
      pool_max(rows, p.dim, list, count, out, from, x);
    } else {
      pool_sum(rows, p.dim, list, count, out, pool_share(p, count), x);
    }
  }
}

inline void pool_backward(const SummaryProblem& p, const uint32_t* list, int64_t count,
                          const float* dpooled, const int32_t* from, float* drows) {
  if (from != nullptr) {
    for (int64_t x = 0; x < p.dim; ++x) drows[from[x] * p.dim + x] += dpooled[x];
    return;
  }
  const Floats share = splat(pool_share(p, count));
  for (int64_t x = 0; x < p.dim; x += kWidth) {
    const Mask lanes = first_lanes(p.dim - x);
    const Floats add = load(dpooled + x, lanes) * share;
    for (int64_t e = 0; e < count; ++e) {
      float* out = drows + list[e] * p.dim + x;
      store(out, load(out, lanes) + add, lanes);
    }
  }
}

/// Query and key of a region with tokens.
inline void pool_region(const SummaryProblem& p, const Region& region, const uint32_t* list,
                        int64_t count, int64_t r) {
  const bool wants_key = p.key_rule == RegionKey::kPooled;
  const auto row = [&](int32_t* from) { return from == nullptr ? from : from + r * p.dim; };
  float* query = p.query + r * p.dim;
  float* key = p.key + r * p.dim;
  if (region.asks < 0) {
    pool_rows(p, p.q, list, count, query, row(p.query_from));
    if (wants_key) pool_rows(p, p.pooled_k, list, count, key, row(p.key_from));
    return;
  }
  const uint32_t asks = who_asks(region, list, count);
  for (int64_t x = 0; x < p.dim; x += kWidth) {
    pool_max(p.q, p.dim, &asks, 1, query, row(p.query_from), x);
    if (wants_key) pool_max(p.pooled_k, p.dim, &asks, 1, key, row(p.key_from), x);
  }
}

// --- local expectation ---------------------------------------------------------------------------

/// Which weights of region r dropout keeps, as factors, whole vectors.
inline void keep_factors(const SummaryProblem& p, int64_t r, const uint32_t* list, int64_t count,
                         float* factors) {
  for (int64_t e = 0; e < count; e += kWidth) {
    const Words j = load(list + e, first_lanes(count - e));
    const Mask kept =
        p.dropout.on ? keeps(p.dropout, p.partition.length + r, j) : first_lanes(kWidth);
    store(factors + e, select(kept, splat(p.dropout.rescale), splat(0.0f)));
  }
}

/// scores become e^(score - shift), zeros behind them up to whole vectors; returns their sum.
inline float soften(float* scores, int64_t count, float shift) {
  Floats sum = splat(0.0f);
  for (int64_t e = 0; e < count; e += kWidth) {
    const Floats weight =
        select(first_lanes(count - e), exp(load(scores + e) - splat(shift)), splat(0.0f));
    sum = sum + weight;
    store(scores + e, weight);
  }
  return reduce_add(sum);
}

inline void scale_by(float* to, const float* from, const float* factors, int64_t count) {
  for (int64_t e = 0; e < count; e += kWidth) store(to + e, load(from + e) * load(factors + e));
}

inline void summarize_region(const SummaryProblem& p, const SummaryBuffers& b, int64_t r) {
  const Region region = p.partition.region(r);
  const int64_t count = list_tokens(p, region.tokens, b.list);
  const size_t bytes = static_cast<size_t>(p.dim) * sizeof(float);
  float* query = p.query + r * p.dim;
  float* key = p.key + r * p.dim;
  float* value = p.value + r * p.dim;
  if (p.tokens != nullptr) p.tokens[r] = static_cast<int32_t>(count);
  memset(value, 0, bytes);
  p.lse[r] = -kInfinity;
  if (count == 0 || p.key_rule == RegionKey::kWeighted) memset(key, 0, bytes);
  if (count == 0) {
    memset(query, 0, bytes);
    return;
  }
  pool_region(p, region, b.list, count, r);
  gather_scores(b.weights, query, p.k, p.dim, b.list, count, p.scale);
  store(b.weights + count, splat(-kInfinity));
  const float highest = highest_score(b.weights, count);
  const float sum = soften(b.weights, count, highest);
  p.lse[r] = highest + logf(sum);
  for (int64_t e = 0; e < count; e += kWidth)
    store(b.weights + e, load(b.weights + e) * splat(1.0f / sum));
  if (p.key_rule == RegionKey::kWeighted)
    accumulate_rows(key, {b.weights, b.list, count}, p.k, p.dim);
  if (p.dropout.on) {
    keep_factors(p, r, b.list, count, b.kept);
    scale_by(b.weights, b.weights, b.kept, count);
  }
  accumulate_rows(value, {b.weights, b.list, count}, p.v, p.dim);
}

/// Calls visit(r) for regions [begin, end). All spans in the order of chunks whose tokens stay in the
/// second-level cache while all levels within the chunk have their turn.
template <class Visit>
inline void for_each_region(const Partition& cut, int64_t begin, int64_t end, const Visit& visit) {
  if (cut.kind != PartitionKind::kLogsparse || begin > 0 || end < cut.num_regions()) {
    for (int64_t r = begin; r < end; ++r) visit(r);
    return;
  }
  constexpr int64_t kChunkLevel = 9;
  const int64_t levels = cut.num_levels();
  for (int64_t chunk = 0; chunk < cut.num_spans(kChunkLevel); ++chunk) {
    int64_t first = 0;
    for (int64_t level = 1; level < minimum(levels, kChunkLevel + 1); ++level) {
      const int64_t spans = cut.num_spans(level), each = int64_t{1} << (kChunkLevel - level);
      for (int64_t u = chunk * each; u < minimum((chunk + 1) * each, spans); ++u) visit(first + u);
      first += spans;
    }
  }
  for (int64_t r = cut.first_span(kChunkLevel + 1); r < cut.num_regions(); ++r) visit(r);
}

inline void summarize(const SummaryProblem& p, const SummaryBuffers& b, int64_t first,
                      int64_t last) {
  for_each_region(p.partition, first, last, [&](int64_t r) { summarize_region(p, b, r); });
}

/// rows[list[e]] += factors[e] row.
inline void add_to_rows(float* rows, const float* factors, const uint32_t* list, int64_t count,
                        const float* row, int64_t dim) {
  for (int64_t e = 0; e < count; ++e) {
    float* out = rows + list[e] * dim;
    const Floats factor = splat(factors[e]);
    for (int64_t x = 0; x < dim; x += kWidth) {
      const Mask lanes = first_lanes(dim - x);
      store(out + x, fma(factor, load(row + x, lanes), load(out + x, lanes)), lanes);
    }
  }
}

/// Weights a in b.weights, and in b.dweights the gradients of their scores, times scale.
inline void differentiate_region(const SummaryProblem& p, const SummaryBuffers& b, int64_t r,
                                 int64_t count) {
  const bool is_weighted = p.key_rule == RegionKey::kWeighted;
  gather_scores(b.weights, p.query + r * p.dim, p.k, p.dim, b.list, count, p.scale);
  soften(b.weights, count, p.lse[r]);
  gather_scores(b.dweights, p.dvalue + r * p.dim, p.v, p.dim, b.list, count, 1.0f);
  keep_factors(p, r, b.list, count, b.kept);
  scale_by(b.dweights, b.dweights, b.kept, count);
  if (is_weighted) {
    // b.kept is made again below, for the values.
    gather_scores(b.kept, p.dkey + r * p.dim, p.k, p.dim, b.list, count, 1.0f);
    for (int64_t e = 0; e < count; e += kWidth)
      store(b.dweights + e, load(b.dweights + e) + load(b.kept + e));
    keep_factors(p, r, b.list, count, b.kept);
  }
  Floats sum = splat(0.0f);
  for (int64_t e = 0; e < count; e += kWidth)
    sum = sum +
          select(first_lanes(count - e), load(b.weights + e) * load(b.dweights + e), splat(0.0f));
  const Floats mean = splat(reduce_add(sum));
  for (int64_t e = 0; e < count; e += kWidth) {
    const Floats ds = load(b.weights + e) * (load(b.dweights + e) - mean);
    store(b.dweights + e, ds * splat(p.scale));
  }
}

inline void summarize_region_backward(const SummaryProblem& p, const SummaryBuffers& b, int64_t r) {
  const Region region = p.partition.region(r);
  const int64_t count = list_tokens(p, region.tokens, b.list);
  if (count == 0) return;
  const float* dkey = p.dkey + r * p.dim;
  const auto row = [&](const int32_t* from) { return from == nullptr ? from : from + r * p.dim; };
  differentiate_region(p, b, r, count);
  memset(b.dquery, 0, static_cast<size_t>(p.dim) * sizeof(float));
  accumulate_rows(b.dquery, {b.dweights, b.list, count}, p.k, p.dim);
  add_to_rows(p.dk, b.dweights, b.list, count, p.query + r * p.dim, p.dim);
  if (p.key_rule == RegionKey::kWeighted) {
    add_to_rows(p.dk, b.weights, b.list, count, dkey, p.dim);
  } else {
    pool_backward(p, b.list, count, dkey, row(p.key_from), p.dpooled_k);
  }
  pool_backward(p, b.list, count, b.dquery, row(p.query_from), p.dq);
  scale_by(b.weights, b.weights, b.kept, count);
  add_to_rows(p.dv, b.weights, b.list, count, p.dvalue + r * p.dim, p.dim);
}

inline void summarize_backward(const SummaryProblem& p, const SummaryBuffers& b, int64_t first,
                               int64_t last) {
  for_each_region(p.partition, first, last, [&](int64_t r) { summarize_region_backward(p, b, r); });
}

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
