// SPDX-License-Identifier: Apache-2.0
// Vectorised attention over the passes of a partition: tiles of kTileRows queries and kTileKeys keys
// along their lines, in forward under one online softmax a query, in backward as five products.
#pragma once

#include "kernels/cpu/attend/forward_simd.h"
#include "kernels/cpu/combine/bodies.h"

namespace stipple::kernels::cpu::STIPPLE_SIMD {

/// Arrays of a pass at its first query and key, and from one to the next on its lines.
struct PassRows {
  const float* q;
  const float* k;
  const float* v;
  int64_t query_stride;
  int64_t key_stride;
  const DropoutStream& dropout;
  int64_t first_number;  ///< of the line's keys: dropout counts regions behind all tokens
};

inline PassRows rows_of(const CombineProblem& p, const Pass& pass) {
  const int64_t first_query = pass.queries.first * p.dim, first_key = pass.keys.first * p.dim;
  return {(pass.of_regions ? p.region_q : p.q) + first_query,
          (pass.of_regions ? p.region_key : p.k) + first_key,
          (pass.of_regions ? p.region_value : p.v) + first_key,
          pass.queries.stride * p.dim,
          pass.keys.stride * p.dim,
          pass.of_regions ? p.region_dropout : p.dropout,
          pass.keys.first + (pass.of_regions ? p.partition.length : 0)};
}

/// The pass for queries of the run alone, which is all of them or whole blocks.
inline Pass cut_pass(const CombineProblem& p, Pass pass) {
  if (p.end_query - p.first_query == p.partition.length) return pass;
  const int64_t before = p.first_query - pass.queries.first;
  const int64_t skipped = before > 0 ? before : 0;
  const int64_t end = minimum(p.end_query - pass.queries.first, pass.queries.count);
  pass.queries.first += skipped;
  pass.queries.count = end > skipped ? end - skipped : 0;
  pass.shift += skipped;
  return pass;
}

/// Rows of a line as the right factor of a product.
inline RightFactor line_factor(const float* rows, int64_t stride) { return {rows, stride, kPanel}; }

/// pack_transposed of rows that are `stride` apart, zeros up to a whole panel.
inline void pack_line(float* packed, const float* rows, int64_t stride, int64_t count,
                      int64_t depth) {
  constexpr int kRows = 4;
  const float zeros[kWidth] = {};
  for (int64_t first = 0; first < round_up(count, kPanel); first += kRows) {
    float* panel = packed + first / kPanel * kPanel * depth + first % kPanel;
    for (int64_t t = 0; t < depth; t += kWidth) {
      const int64_t lanes = minimum(depth - t, kWidth);
      Floats row[kRows];
      for (int r = 0; r < kRows; ++r) {
        row[r] = first + r < count ? load(rows + (first + r) * stride + t, first_lanes(lanes))
                                   : load(zeros);
      }
      float turned[kRows * kWidth];
      store_interleaved(turned, row[0], row[1], row[2], row[3]);
      for (int64_t x = 0; x < lanes; ++x)
        memcpy(panel + (t + x) * kPanel, turned + x * kRows, kRows * sizeof(float));
    }
  }
}

/// What each key of the pass adds to its scores, -infinity up to a whole panel.
inline void make_bias(const CombineProblem& p, const Pass& pass, const CombineBuffers& b) {
  const int64_t count = pass.keys.count;
  for (int64_t e = 0; e < round_up(count, kPanel); ++e) b.bias[e] = -kInfinity;
  for (int64_t e = 0; e < count; ++e) {
    const int64_t key = pass.keys[e];
    if (!pass.of_regions) {
      if (p.mask == nullptr || p.mask[key] != 0) b.bias[e] = 0.0f;
    } else if (p.region_tokens[key] > 0) {
      const bool wants_log = p.mass != 0.0f || p.dmass != nullptr;
      const float log_tokens = wants_log ? logf(static_cast<float>(p.region_tokens[key])) : 0.0f;
      b.bias[e] = p.mass * log_tokens;
      if (p.dmass != nullptr) b.log_tokens[e] = log_tokens;
    }
  }
}

/// Which of keys [first, first + kWidth) of the pass the query sees, as far as its relation says.
inline Mask related(const Pass& pass, int64_t query, int64_t first) {
  if (pass.relation == Relation::kAll) return first_lanes(kWidth);
  if (pass.relation == Relation::kOther) {
    const int64_t place = pass.place(query) - first;
    return place < 0 || place >= kWidth ? first_lanes(kWidth) : !mask_from_bits(1u << place);
  }
  const int64_t end = pass.key_end(query) - first;
  return end <= 0 ? mask_from_bits(0) : first_lanes(end);
}

/// Which of keys [first, first + kWidth) of the pass keep their weight.
inline Mask kept_keys(const Pass& pass, const PassRows& rows, int64_t query, int64_t first) {
  if (!rows.dropout.on) return first_lanes(kWidth);
  const int64_t number = rows.first_number + first * pass.keys.stride;
  const Words key = iota() * splat_words(static_cast<uint32_t>(pass.keys.stride)) +
                    splat_words(static_cast<uint32_t>(number));
  return keeps(rows.dropout, pass.queries[query], key);
}

/// Keys of the pass that the rows of a tile may see, from `first` on, in whole panels.
inline int64_t tile_columns(const Pass& pass, int64_t last_query, int64_t first) {
  return round_up(minimum(pass.key_end(last_query) - first, kTileKeys), kPanel);
}

// --- facts ---------------------------------------------------------------------------------------

/// What query i tells whose keys weigh `sum` together, its regions `of_regions` of it, and these
/// `tilt`, weight by weight times the score above the row's maximum.
inline void tell_facts(const CombineProblem& p, int64_t i, double sum, double of_regions,
                       double tilt) {
  if (p.facts == nullptr || (p.mask != nullptr && p.mask[i] == 0)) return;
  ++p.facts->queries;
  p.facts->direct_weight += (sum - of_regions) / sum;
  if (of_regions == 0.0) return;
  ++p.facts->with_regions;
  p.facts->region_entropy += log(of_regions) - tilt / of_regions;
}

/// Of weights e^(s - max) of a vector, and of zeros where there is no key: e^(s - max) (s - max).
inline Floats tilt_of(Floats weight, Floats above_max) {
  return select(less(splat(0.0f), weight), weight * above_max, splat(0.0f));
}

/// The regions' sums of query i after its maximum went up by `rise`.
inline void lower_facts(const CombineBuffers& b, int64_t i, float factor, float rise) {
  if (b.region_sum[i] == 0.0f) return;
  b.region_tilt[i] = factor * (b.region_tilt[i] - rise * b.region_sum[i]);
  b.region_sum[i] *= factor;
}

// --- forward -------------------------------------------------------------------------------------

/// Turns products with `columns` keys into weights, in place; o is rescaled to match.
inline void soften_row(const CombineProblem& p, const Pass& pass, const CombineBuffers& b,
                       const PassRows& rows, int64_t query, int64_t first, int64_t columns,
                       float* tile) {
  const int64_t i = pass.queries[query];
  for (int64_t x = 0; x < columns; x += kWidth) {
    const Floats bias = load(b.bias + first + x);
    const Mask lanes = related(pass, query, first + x) & less(splat(-kInfinity), bias);
    const Floats score = fma(load(tile + x), splat(p.scale), bias);
    store(tile + x, select(lanes, score, splat(-kInfinity)));
  }
  const float highest = highest_score(tile, columns);
  if (highest == -kInfinity) {
    memset(tile, 0, static_cast<size_t>(columns) * sizeof(float));
    return;
  }
  RowSoftmax row{b.max[i], b.sum[i]};
  const float factor = row.raise(highest);
  if (factor != 1.0f) {
    scale_row(p.o + i * p.dim, p.dim, factor);
    if (p.facts != nullptr) lower_facts(b, i, factor, row.max - b.max[i]);
  }
  const bool tells = p.facts != nullptr && pass.of_regions;
  Floats sum = splat(0.0f), tilt = splat(0.0f);
  for (int64_t x = 0; x < columns; x += kWidth) {
    const Floats above_max = load(tile + x) - splat(row.max);
    const Floats weight = exp(above_max);
    sum = sum + weight;
    if (tells) tilt = tilt + tilt_of(weight, above_max);
    const Mask kept = kept_keys(pass, rows, query, first + x);
    store(tile + x, rows.dropout.on
                        ? select(kept, weight * splat(rows.dropout.rescale), splat(0.0f))
                        : weight);
  }
  b.max[i] = row.max;
  b.sum[i] = row.sum + reduce_add(sum);
  if (!tells) return;
  b.region_sum[i] += reduce_add(sum);
  b.region_tilt[i] += reduce_add(tilt);
}

inline void forward_pass(const CombineProblem& p, const Pass& pass, const CombineBuffers& b) {
  const PassRows rows = rows_of(p, pass);
  float* tile = b.tiles[0];
  pack_line(b.packed_keys, rows.k, rows.key_stride, pass.keys.count, p.dim);
  make_bias(p, pass, b);
  for (int64_t a = 0; a < pass.queries.count; a += kTileRows) {
    const int64_t count = minimum(pass.queries.count - a, kTileRows);
    const int64_t key_end = pass.key_end(a + count - 1);
    const LeftFactor queries = {rows.q + a * rows.query_stride, rows.query_stride, 1};
    float* o = p.o + pass.queries[a] * p.dim;
    for (int64_t j = 0; j < key_end; j += kTileKeys) {
      const int64_t columns = tile_columns(pass, a + count - 1, j);
      multiply<false>(tile, kTileKeys, queries, packed_panels(b.packed_keys, p.dim, j), count,
                      columns, p.dim);
      for (int64_t r = 0; r < count; ++r)
        soften_row(p, pass, b, rows, a + r, j, columns, tile + r * kTileKeys);
      multiply<true>(o, rows.query_stride, {tile, kTileKeys, 1},
                     line_factor(rows.v + j * rows.key_stride, rows.key_stride), count, p.dim,
                     minimum(key_end - j, kTileKeys));
    }
  }
}

inline void forward_passes(const CombineProblem& p, const CombineBuffers& b) {
  for (int64_t i = p.first_query; i < p.end_query; ++i) {
    b.max[i] = -kInfinity;
    b.sum[i] = b.region_sum[i] = b.region_tilt[i] = 0.0f;
  }
  clear_rows(p.o + p.first_query * p.dim, p.end_query - p.first_query, p.dim);
  for (int64_t g = 0; g < p.partition.num_passes(); ++g) {
    const Pass pass = cut_pass(p, p.partition.pass(g));
    if (!pass.is_empty()) forward_pass(p, pass, b);
  }
  for (int64_t i = p.first_query; i < p.end_query; ++i) {
    p.lse[i] = b.max[i] == -kInfinity ? -kInfinity : b.max[i] + logf(b.sum[i]);
    if (p.lse[i] == -kInfinity) continue;
    scale_row(p.o + i * p.dim, p.dim, 1.0f / b.sum[i]);
    tell_facts(p, i, double{b.sum[i]}, double{b.region_sum[i]}, double{b.region_tilt[i]});
  }
}

// --- backward ------------------------------------------------------------------------------------

/// Products in tiles 0 and 1 become scale ds and the dropped weights.
inline void differentiate_row(const CombineProblem& p, const Pass& pass, const CombineBuffers& b,
                              const PassRows& rows, int64_t query, int64_t first, int64_t columns,
                              int64_t r) {
  const int64_t i = pass.queries[query];
  float* scores = b.tiles[0] + r * kTileKeys;
  float* dweights = b.tiles[1] + r * kTileKeys;
  const Floats lse = splat(p.final_lse[i]), delta = splat(p.delta[i]);
  const bool wants_mass = p.dmass != nullptr && pass.of_regions;
  Floats dmass = splat(0.0f);
  for (int64_t x = 0; x < columns; x += kWidth) {
    const Floats bias = load(b.bias + first + x);
    const Mask lanes = related(pass, query, first + x) & less(splat(-kInfinity), bias);
    const Floats score = fma(load(scores + x), splat(p.scale), bias);
    const Floats weight = select(lanes, exp(score - lse), splat(0.0f));
    const Mask kept = kept_keys(pass, rows, query, first + x);
    const Floats factor = select(kept, splat(rows.dropout.rescale), splat(0.0f));
    const Floats ds = select(lanes, weight * (factor * load(dweights + x) - delta), splat(0.0f));
    store(scores + x, ds * splat(p.scale));
    store(dweights + x, weight * factor);
    if (wants_mass) dmass = dmass + select(lanes, ds * load(b.log_tokens + first + x), splat(0.0f));
  }
  if (wants_mass) *p.dmass += static_cast<double>(reduce_add(dmass));
}

inline void backward_pass(const CombineProblem& p, const Pass& pass, const CombineBuffers& b) {
  const PassRows rows = rows_of(p, pass);
  const int64_t first_key = pass.keys.first * p.dim;
  float* dk = (pass.of_regions ? p.dregion_key : p.dk) + first_key;
  float* dv = (pass.of_regions ? p.dregion_value : p.dv) + first_key;
  pack_line(b.packed_keys, rows.k, rows.key_stride, pass.keys.count, p.dim);
  pack_line(b.packed_values, rows.v, rows.key_stride, pass.keys.count, p.dim);
  make_bias(p, pass, b);
  for (int64_t a = 0; a < pass.queries.count; a += kTileRows) {
    const int64_t count = minimum(pass.queries.count - a, kTileRows);
    const int64_t key_end = pass.key_end(a + count - 1);
    const LeftFactor queries = {rows.q + a * rows.query_stride, rows.query_stride, 1};
    const int64_t own = pass.queries[a] * p.dim;
    const float* dout = p.dout + own;
    float* dq = (pass.of_regions ? p.dregion_q : p.dq) + own;
    for (int64_t j = 0; j < key_end; j += kTileKeys) {
      const int64_t columns = tile_columns(pass, a + count - 1, j);
      const int64_t keys = minimum(key_end - j, kTileKeys);
      multiply<false>(b.tiles[0], kTileKeys, queries, packed_panels(b.packed_keys, p.dim, j), count,
                      columns, p.dim);
      multiply<false>(b.tiles[1], kTileKeys, {dout, rows.query_stride, 1},
                      packed_panels(b.packed_values, p.dim, j), count, columns, p.dim);
      for (int64_t r = 0; r < count; ++r) differentiate_row(p, pass, b, rows, a + r, j, columns, r);
      multiply<true>(dq, rows.query_stride, {b.tiles[0], kTileKeys, 1},
                     line_factor(rows.k + j * rows.key_stride, rows.key_stride), count, p.dim,
                     keys);
      multiply<true>(dk + j * rows.key_stride, rows.key_stride, {b.tiles[0], 1, kTileKeys},
                     line_factor(queries.data, rows.query_stride), keys, p.dim, count);
      multiply<true>(dv + j * rows.key_stride, rows.key_stride, {b.tiles[1], 1, kTileKeys},
                     line_factor(dout, rows.query_stride), keys, p.dim, count);
    }
  }
}

inline void backward_passes(const CombineProblem& p, const CombineBuffers& b) {
  for (int64_t g = 0; g < p.partition.num_passes(); ++g) {
    const Pass pass = cut_pass(p, p.partition.pass(g));
    if (!pass.is_empty()) backward_pass(p, pass, b);
  }
}

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
