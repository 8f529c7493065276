// SPDX-License-Identifier: Apache-2.0
// Vectorised forward of entmax attention: candidates of a few rows at a time, tau settled over them,
// and sums over the support.
#pragma once

#include "kernels/cpu/attend_entmax/candidates_simd.h"
#include "kernels/cpu/entmax/rows_simd.h"

namespace stipple::kernels::cpu::STIPPLE_SIMD {

/// Sums of the same rows with two sorts of weights; without the second, the first has the same bits.
struct ValueSums {
  float* first;
  float* second;  ///< null: not asked
  const float* first_weights;
  const float* second_weights;
  const uint32_t* columns;
  int64_t count;
};

/// Columns [x, x + kVecs vectors) of them.
template <int kVecs, bool kTwo>
inline void sum_vectors(const ValueSums& s, const float* values, int64_t width, int64_t x,
                        Mask last) {
  constexpr int kUnroll = kWidth == 16 ? 4 / kVecs : 2 / kVecs;  // with two sums, the registers
  constexpr int kChains = kUnroll > 0 ? kUnroll : 1;
  Floats first[size_t{kChains}][size_t{kVecs}], second[size_t{kChains}][size_t{kVecs}];
#pragma GCC unroll 4
  for (int c = 0; c < kChains; ++c) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) first[c][v] = second[c][v] = splat(0.0f);
  }
  const auto add = [&](int c, int64_t e) {
    const float* row = values + static_cast<int64_t>(s.columns[e]) * width + x;
    const Floats a = splat(s.first_weights[e]);
    const Floats b = splat(kTwo ? s.second_weights[e] : 0.0f);
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      const Floats value = v + 1 == kVecs ? load(row + v * kWidth, last) : load(row + v * kWidth);
      first[c][v] = fma(a, value, first[c][v]);
      if (kTwo) second[c][v] = fma(b, value, second[c][v]);
    }
  };
  int64_t e = 0;
  for (; e + kChains <= s.count; e += kChains) {
#pragma GCC unroll 4
    for (int c = 0; c < kChains; ++c) add(c, e + c);
  }
  for (; e < s.count; ++e) add(0, e);
#pragma GCC unroll 4
  for (int v = 0; v < kVecs; ++v) {
    const Mask lanes = v + 1 == kVecs ? last : first_lanes(kWidth);
    Floats a = first[0][v], b = second[0][v];
#pragma GCC unroll 4
    for (int c = 1; c < kChains; ++c) {
      a = a + first[c][v];
      if (kTwo) b = b + second[c][v];
    }
    store(s.first + x + v * kWidth, a, lanes);
    if (kTwo) store(s.second + x + v * kWidth, b, lanes);
  }
}

template <bool kTwo>
inline void sum_values(const ValueSums& s, const float* values, int64_t width) {
  const Mask all = first_lanes(kWidth);
  int64_t x = 0;
  for (; x + 4 * kWidth <= width; x += 4 * kWidth) {
    sum_vectors<4, kTwo>(s, values, width, x, all);
  }
  if (x + 2 * kWidth <= width) {
    sum_vectors<2, kTwo>(s, values, width, x, all);
    x += 2 * kWidth;
  }
  for (; x < width; x += kWidth) {
    sum_vectors<1, kTwo>(s, values, width, x, first_lanes(width - x));
  }
}

/// Says how backward gets at the row's support: it is kept, or found again by products, or as edges.
inline void keep_support(const EntmaxProblem& p, int64_t i, const EntmaxList& list, bool is_dense) {
  if (p.size == nullptr) return;
  p.size[i] = static_cast<int32_t>(list.count);
  uint32_t* support = p.support + i * p.room;
  if (list.count <= p.room) {
    memcpy(support, list.columns, static_cast<size_t>(list.count) * sizeof(uint32_t));
  } else {
    support[0] = is_dense ? 1 : 0;
  }
}

/// Outputs of row i from the scores of its support.
template <Power kPower>
inline void finish_row(const EntmaxCurve<kPower>& curve, const EntmaxProblem& p, int64_t i,
                       const EntmaxList& list, float tau, bool is_dense) {
  p.tau[i] = tau;
  keep_support(p, i, list, is_dense);
  float* o = p.o + i * p.dim;
  float* o2 = p.o2 == nullptr ? nullptr : p.o2 + i * p.dim;
  if (list.count == 0) {
    const float nothing = isnan(tau) ? tau : 0.0f;
    fill(o, p.dim, nothing);
    if (o2 != nullptr) fill(o2, p.dim, nothing);
    return;
  }
  float* u = list.spare_scores;
  const float sum = entmax_weights(curve, list.scores, list.scores, u, list.count, tau);
  const Floats share = splat(1.0f / sum);
  for (int64_t e = 0; e < list.count; e += kWidth) {
    Floats factor = splat(1.0f);
    if (p.dropout.on) {
      const Mask kept = keeps(p.dropout, i, load(list.columns + e, first_lanes(list.count - e)));
      factor = select(kept, splat(p.dropout.rescale), splat(0.0f));
    }
    store(list.scores + e, load(list.scores + e) * factor);
    store(u + e, load(u + e) * share * factor);
  }
  const ValueSums sums = {o, o2, list.scores, u, list.columns, list.count};
  if (o2 == nullptr) {
    sum_values<false>(sums, p.v, p.dim);
  } else {
    sum_values<true>(sums, p.v, p.dim);
  }
}

/// A row whose candidates by products are in list r: true where it is dense, and then done. A row
/// that is not has lost some of them.
template <Power kPower>
inline bool finish_dense(const EntmaxCurve<kPower>& curve, const EntmaxProblem& p,
                         const EntmaxScoreBuffers& b, int64_t i, int64_t r,
                         const EntmaxStream& stream) {
  EntmaxList list = list_of(b, r, stream.count);
  float tau = stream.cut;
  settle(curve, &list, &tau, 1);
  if (list.count <= entmax_dense_from(p.num_keys)) return false;
  finish_row(curve, p, i, list, tau, true);
  return true;
}

/// Rows whose candidates have been found, and are few.
template <Power kPower>
inline void finish_sparse(const EntmaxCurve<kPower>& curve, const EntmaxProblem& p,
                          const EntmaxScoreBuffers& b, const int64_t* number,
                          const int64_t* of_buffer, int64_t rows, const EntmaxStream* streams) {
  EntmaxList lists[kMicroRows];
  float tau[kMicroRows] = {};
  for (int64_t n = 0; n < rows; ++n) {
    const int64_t r = of_buffer[n];
    lists[n] = list_of(b, r, streams[r].count);
    score_list(p, b.queries + r * p.dim, lists[n]);
    tau[n] = streams[r].cut;
  }
  settle(curve, lists, tau, rows);
  for (int64_t n = 0; n < rows; ++n) {
    finish_row(curve, p, number[of_buffer[n]], lists[n], tau[n], false);
  }
}

/// Rows of any set of pairs but CSR, or one of CSR whose bits are in the buffer.
template <Power kPower>
inline void forward_rows(const EntmaxCurve<kPower>& curve, const EntmaxProblem& p,
                         const EntmaxScoreBuffers& b, const EntmaxPairs& pairs, int64_t first,
                         int64_t rows) {
  EntmaxStream streams[kMicroRows];
  int64_t number[kMicroRows] = {}, sparse[kMicroRows] = {}, again[kMicroRows] = {};
  int64_t num_sparse = 0, num_again = 0;
  for (int64_t r = 0; r < rows; ++r) number[r] = first + r;
  stream_rows(curve, p, b, pairs, number, rows, streams);
  for (int64_t r = 0; r < rows; ++r) {
    if (streams[r].count <= entmax_dense_from(p.num_keys)) {
      sparse[num_sparse++] = r;
    } else if (!finish_dense(curve, p, b, number[r], r, streams[r])) {
      again[num_again++] = r;
    }
  }
  finish_sparse(curve, p, b, number, sparse, num_sparse, streams);
  for (int64_t n = 0; n < num_again; ++n) {
    constexpr int64_t kFirst = 0;
    const int64_t row = number[again[n]];
    stream_rows(curve, p, b, pairs, &row, 1, streams);
    finish_sparse(curve, p, b, &row, &kFirst, 1, streams);
  }
}

template <Power kPower>
inline void forward_pairs(const EntmaxCurve<kPower>& curve, const EntmaxProblem& p,
                          const EntmaxScoreBuffers& b, int64_t first_row, int64_t last_row) {
  const EntmaxPairs pairs = pack_pairs(p, b, first_row, last_row);
  for (int64_t i = first_row; i < last_row; i += kMicroRows) {
    forward_rows(curve, p, b, pairs, i, minimum(last_row - i, kMicroRows));
  }
}

/// Rows of a group whose scores with all its keys are in the tile, where most of them are edges.
struct ForwardGroup {
  int64_t number = 0;
  int64_t begin = 0, end = 0;  ///< places in p.groups.queries
  GroupKeys keys{};
  bool has_tile = false;
};

/// The rows of [first, last) that begin at `first` and are of one group, not before `before`.
inline ForwardGroup next_group(const EntmaxProblem& p, const EntmaxScoreBuffers& b,
                               const ForwardGroup& before, int64_t first, int64_t last) {
  constexpr int64_t kWorthwhile = 2;
  ForwardGroup group = {.number = before.number, .begin = first};
  while (p.groups.query_ptr[group.number + 1] <= first) ++group.number;
  group.keys = group_keys(p, keys_of_group(p, group.number));
  const int64_t fit = rows_of_tile(group.keys.count);
  group.end = minimum(minimum(last, p.groups.query_ptr[group.number + 1]),
                      first + (fit > 0 ? fit : kGroupRows));
  int64_t edges = 0;
  for (int64_t row = first; row < group.end; ++row) {
    const int64_t i = p.groups.queries[row];
    edges += p.row_ptr[i + 1] - p.row_ptr[i];
  }
  group.has_tile = fit > 0 && p.key_mask == nullptr &&
                   kWorthwhile * edges >= (group.end - first) * group.keys.count;
  if (!group.has_tile) return group;
  for (int64_t row = first; row < group.end; ++row)
    scale_query(p, p.groups.queries[row], b.group_queries + (row - first) * p.dim);
  multiply_group(b.group_scores, group.keys.stride, b.group_queries, group.end - first, p.k, p.dim,
                 group.keys.columns, group.keys.count);
  return group;
}

/// edges_of_row of the r-th row of a group's tile.
inline EntmaxList edges_of_tile(const EntmaxProblem& p, const EntmaxScoreBuffers& b,
                                const ForwardGroup& group, int64_t slot, int64_t i, int64_t r) {
  constexpr int64_t kMostStrays = 256;
  uint32_t stray_at[kMostStrays];
  const uint32_t* columns = p.columns + p.row_ptr[i];
  const GroupKeys& keys = group.keys;
  const float* scores = b.group_scores + r * keys.stride;
  EntmaxList list = list_of(b, slot, p.row_ptr[i + 1] - p.row_ptr[i]);
  int64_t strays = 0;
  for (int64_t e = 0, at = 0; e < list.count;) {
    const int64_t left = minimum(list.count - e, keys.count - at);
    const Mask lanes = first_lanes(left);
    store(list.scores + e, load(scores + at));
    const uint32_t other =
        mask_bits(lanes & !equal(load(columns + e, lanes), load(keys.columns + at, lanes)));
    const int64_t alike = other != 0 ? __builtin_ctz(other) : minimum(left, kWidth);
    e += alike;
    at += alike;
    if (e == list.count || (other == 0 && at < keys.count)) continue;
    if (at < keys.count && columns[e] > keys.columns[at]) {
      ++at;
    } else {
      if (strays == kMostStrays) return edges_of_row(p, b, slot, i);
      b.spare_columns[strays] = columns[e];
      stray_at[strays++] = static_cast<uint32_t>(e++);
    }
  }
  if (strays > 0) {
    gather_scores(b.spare_scores, b.group_queries + r * p.dim, p.k, p.dim, b.spare_columns, strays,
                  1.0f);
    for (int64_t x = 0; x < strays; ++x) list.scores[stray_at[x]] = b.spare_scores[x];
  }
  memcpy(list.columns, columns, static_cast<size_t>(list.count) * sizeof(uint32_t));
  end_list(list.scores, list.count);
  return list;
}

template <Power kPower>
inline void forward_edges(const EntmaxCurve<kPower>& curve, const EntmaxProblem& p,
                          const EntmaxScoreBuffers& b, int64_t first_row, int64_t last_row) {
  if (p.key_mask != nullptr) pack_key_mask(b.key_words, p);
  bool is_packed = false;
  EntmaxPairs pairs;
  EntmaxList lists[kMicroRows];
  float tau[kMicroRows] = {};
  int64_t number[kMicroRows] = {};
  int64_t count = 0;
  ForwardGroup group;
  const auto finish = [&] {
    settle(curve, lists, tau, count);
    for (int64_t n = 0; n < count; ++n) {
      finish_row(curve, p, number[n], lists[n], tau[n], false);
    }
    count = 0;
  };
  for (int64_t row = first_row; row < last_row; ++row) {
    const bool is_grouped = p.groups.queries != nullptr;
    const int64_t i = is_grouped ? p.groups.queries[row] : row;
    if (is_grouped && row >= group.end) group = next_group(p, b, group, row, last_row);
    if (p.row_ptr[i + 1] - p.row_ptr[i] > entmax_dense_from(p.num_keys)) {
      finish();
      if (!is_packed) pairs = pack_pairs(p, b, first_row, last_row);
      is_packed = true;
      pack_row_words(p, b, i);
      forward_rows(curve, p, b, pairs, i, 1);
      continue;
    }
    EntmaxList list = group.has_tile ? edges_of_tile(p, b, group, count, i, row - group.begin)
                                     : edges_of_row(p, b, count, i);
    EntmaxStream start{.scores = list.scores, .columns = list.columns};
    if (list.count > kMostLanes) {
      lane_maxima(b.lanes, list.scores, list.count,
                  [&](int64_t e) { return first_lanes(list.count - e); });
      start_streams(curve, &start, 1, b.lanes);
      list.count =
          keep_above(list.scores, list.columns, list.scores, list.columns, list.count, start.cut);
    }
    lists[count] = list;
    tau[count] = start.cut;
    number[count++] = i;
    if (count == kMicroRows) finish();
  }
  finish();
}

inline void entmax_forward(const EntmaxProblem& p, const EntmaxScoreBuffers& b, int64_t first_row,
                           int64_t last_row) {
  with_curve(p.alpha, [&](const auto& curve) {
    if (p.columns != nullptr) {
      forward_edges(curve, p, b, first_row, last_row);
    } else {
      forward_pairs(curve, p, b, first_row, last_row);
    }
  });
}

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
