// SPDX-License-Identifier: Apache-2.0
// Vectorised backward of entmax attention over the support alone, chunk of queries by chunk: along
// the rows scores, weights, gradients of pairs and sums over a query's keys; then pairs are regrouped
// by key with a counting sort, and sums over a key's queries walk them. No sum scatters, and none
// depends on how queries and keys were cut. Rows whose support forward had no room for find it again.
#pragma once

#include "kernels/cpu/attend/edge_sums_simd.h"
#include "kernels/cpu/attend_entmax/candidates_simd.h"
#include "kernels/cpu/entmax/rows_simd.h"

namespace stipple::kernels::cpu::STIPPLE_SIMD {

/// Drops the pairs of a list whose keys lie outside, and their weights.
inline void keep_keys(EntmaxList& list, float* p, float* u, Range keys) {
  int64_t kept = 0;
  for (int64_t e = 0; e < list.count; e += kWidth) {
    const Words j = load(list.columns + e);
    const Mask before = less(j, splat_words(static_cast<uint32_t>(keys.begin)));
    const Mask own = less(j, splat_words(static_cast<uint32_t>(keys.end))) & !before &
                     first_lanes(list.count - e);
    compress_store(list.columns + kept, j, own);
    compress_store(u + kept, load(u + e), own);
    kept += compress_store(p + kept, load(p + e), own);
  }
  list.count = kept;
}

/// sum_j ds_j s_j / temperature, from x before it is overwritten and ds. The sum of ds is 0: so the
/// largest x may be taken off first.
inline float temperature_gradient(const EntmaxProblem& p, const float* x, const EdgeGradient* edges,
                                  int64_t count) {
  const float best = highest_of(x, count);
  double sum = 0.0;
  for (int64_t e = 0; e < count; ++e) sum += double{edges[e].dscore} * double{x[e] - best};
  const double scale = double{p.gradient_scale} * (double{p.alpha} - 1.0) * double{p.temperature};
  return static_cast<float>(sum / scale);
}

/// The gradients of row i's pairs, which go to `out`, and its own; returns how many pairs there are.
/// The list has scores, ended.
template <Power kPower>
inline int64_t differentiate_row(const EntmaxCurve<kPower>& curve, const EntmaxProblem& p,
                                 const EntmaxBackwardBuffers& b, const BackwardPart& part,
                                 int64_t i, EntmaxList list, EdgeGradient* out) {
  const float* dout = p.dout + i * p.dim;
  float* u = list.spare_scores;
  entmax_weights(curve, list.scores, b.weights, u, list.count, p.final_tau[i]);
  if (!part.by_query) keep_keys(list, b.weights, u, part.keys);
  gather_scores(b.dweights, dout, p.v, p.dim, list.columns, list.count, 1.0f);
  const Floats delta = splat(dot(dout, p.final_o2 + i * p.dim, p.dim));
  for (int64_t e = 0; e < list.count; e += kWidth) {
    const int64_t left = minimum(list.count - e, kWidth);
    const Words j = load(list.columns + e, first_lanes(left));
    Floats factor = splat(1.0f);
    if (p.dropout.on) {
      factor = select(keeps(p.dropout, i, j), splat(p.dropout.rescale), splat(0.0f));
    }
    const Floats dp = factor * load(b.dweights + e);
    store(b.dweights + e, dp);
    const Floats ds = load(u + e) * (dp - delta) * splat(p.gradient_scale);
    const Floats weight = load(b.weights + e) * factor;
    EdgeGradient pairs[kWidth];
    store_interleaved(&pairs->dscore, ds, weight, dp, bit_cast_floats(j));
    memcpy(out + e, pairs, static_cast<size_t>(left) * sizeof(EdgeGradient));
  }
  if (!part.by_query) return list.count;
  sum_alone(EdgeRun{out, list.count}, {p.dq + i * p.dim, &out->dscore, p.k, p.dim});
  if (p.dalpha != nullptr) {
    p.dalpha[i] = alpha_gradient(b.weights, b.dweights, list.count, p.alpha);
  }
  if (p.dtemperature != nullptr) {
    p.dtemperature[i] = temperature_gradient(p, list.scores, out, list.count);
  }
  return list.count;
}

/// A row of NaN says so; one without keys has no gradients.
inline void clear_row(const EntmaxProblem& p, const BackwardPart& part, int64_t i) {
  if (!part.by_query) return;
  const float nothing = isnan(p.final_tau[i]) ? p.final_tau[i] : 0.0f;
  fill(p.dq + i * p.dim, p.dim, nothing);
  if (p.dalpha != nullptr) p.dalpha[i] = nothing;
  if (p.dtemperature != nullptr) p.dtemperature[i] = nothing;
}

// --- the support of a row ------------------------------------------------------------------------

/// As forward left it.
inline EntmaxList kept_support(const EntmaxProblem& p, const EntmaxScoreBuffers& b, int64_t i) {
  EntmaxList list = list_of(b, 0, p.final_size[i]);
  memcpy(list.columns, p.final_support + i * p.room,
         static_cast<size_t>(list.count) * sizeof(uint32_t));
  scale_query(p, i, b.queries);
  score_list(p, b.queries, list);
  return list;
}

inline void drop_below_tau(const EntmaxProblem& p, int64_t i, EntmaxList& list) {
  list.count =
      keep_above(list.scores, list.columns, list.scores, list.columns, list.count, p.final_tau[i]);
}

/// Finds the supports of rows that are no CSR again and calls visit(i, list) for each.
template <Power kPower, class Visit>
inline void find_supports(const EntmaxCurve<kPower>& curve, const EntmaxProblem& p,
                          const EntmaxScoreBuffers& b, const EntmaxPairs& pairs,
                          const int64_t* number, int64_t rows, const Visit& visit) {
  EntmaxStream streams[kMicroRows];
  for (int64_t r = 0; r < rows; ++r) {
    float* query = b.queries + r * p.dim;
    scale_query(p, number[r], query);
    EntmaxStream& row = streams[r];
    row.scores = b.scores + r * b.stride;
    row.columns = b.columns + r * b.stride;
    row.slack = score_slack(query, p.dim, pairs.key_norm);
    row.limit = std::numeric_limits<int64_t>::max();
    row.raise_bound(p.final_tau[number[r]]);
  }
  stream_rows(curve, p, b, pairs, number, rows, streams);
  for (int64_t r = 0; r < rows; ++r) {
    EntmaxList list = list_of(b, r, streams[r].count);
    score_list(p, b.queries + r * p.dim, list);
    drop_below_tau(p, number[r], list);
    visit(number[r], list);
  }
}

// --- along the rows ------------------------------------------------------------------------------

inline bool has_long_rows(const EntmaxProblem& p, Range rows) {
  for (int64_t i = rows.begin; i < rows.end; ++i) {
    if (p.final_size[i] > p.room) return true;
  }
  return false;
}

/// The end of the rows from rows.begin on that fit together; says where the pairs of each go.
inline int64_t cut_chunk(const EntmaxProblem& p, const EntmaxBackwardBuffers& b, Range rows) {
  const int64_t last = minimum(rows.end, rows.begin + kChunkRows);
  int64_t pairs = 0;
  int64_t i = rows.begin;
  for (; i < last && (i == rows.begin || pairs + p.final_size[i] <= b.max_edges); ++i) {
    b.row_start[i - rows.begin] = static_cast<int32_t>(pairs);
    pairs += p.final_size[i];
  }
  return i;
}

/// by_row and, if asked, gradients of the rows.
template <Power kPower>
inline void differentiate_rows(const EntmaxCurve<kPower>& curve, const EntmaxProblem& p,
                               const EntmaxBackwardBuffers& b, const BackwardPart& part,
                               const EntmaxPairs& pairs, Range rows) {
  const auto differentiate = [&](int64_t i, const EntmaxList& list) {
    const int64_t r = i - rows.begin;
    b.row_count[r] = static_cast<int32_t>(
        differentiate_row(curve, p, b, part, i, list, b.by_row + b.row_start[r]));
  };
  int64_t waiting[kMicroRows];
  int64_t count = 0;
  const auto find = [&] {
    if (count > 0) find_supports(curve, p, b.rows, pairs, waiting, count, differentiate);
    count = 0;
  };
  for (int64_t i = rows.begin; i < rows.end; ++i) {
    if (p.final_size[i] == 0) {
      b.row_count[i - rows.begin] = 0;
      clear_row(p, part, i);
    } else if (p.final_size[i] <= p.room) {
      differentiate(i, kept_support(p, b.rows, i));
    } else if (p.columns != nullptr) {
      EntmaxList list = edges_of_row(p, b.rows, i);
      drop_below_tau(p, i, list);
      differentiate(i, list);
    } else {
      waiting[count++] = i;
      if (count == kMicroRows) find();
    }
  }
  find();
}

// --- along the columns ---------------------------------------------------------------------------

/// Calls visit(pair, its query) for all pairs of the rows, in order.
template <class Visit>
inline void for_each_pair(const EntmaxBackwardBuffers& b, Range rows, const Visit& visit) {
  for (int64_t i = rows.begin; i < rows.end; ++i) {
    const EdgeGradient* first = b.by_row + b.row_start[i - rows.begin];
    for (int64_t e = 0; e < b.row_count[i - rows.begin]; ++e) visit(first[e], i);
  }
}

/// Regroups the pairs of the rows by key, rows ascending within a key, and adds them up.
inline void sum_columns(const EntmaxProblem& p, const EntmaxBackwardBuffers& b, Range rows,
                        Range keys) {
  uint32_t* start = b.column_start;
  memset(start + keys.begin, 0, static_cast<size_t>(keys.end - keys.begin + 1) * sizeof(uint32_t));
  for_each_pair(b, rows, [&](const EdgeGradient& pair, int64_t) { ++start[pair.other + 1]; });
  for (int64_t j = keys.begin; j < keys.end; ++j) start[j + 1] += start[j];
  for_each_pair(b, rows, [&](const EdgeGradient& pair, int64_t i) {
    EdgeGradient& moved = b.by_column[start[pair.other]++];
    _mm_storeu_ps(&moved.dscore, _mm_loadu_ps(&pair.dscore));
    moved.other = static_cast<uint32_t>(i);
  });
  // Every start has moved to the next key's: column j now begins where j - 1 says.
  int64_t first = 0;
  for (int64_t j = keys.begin; j < keys.end; ++j) {
    const int64_t last = start[j];
    const EdgeGradient* pairs = b.by_column + first;
    if (first < last) {
      sum_edges<true>(EdgeRun{pairs, last - first}, {},
                      {p.dk + j * p.dim, &pairs->dscore, p.q, p.dim},
                      {p.dv + j * p.dim, &pairs->weight, p.dout, p.dim});
    }
    first = last;
  }
}

/// Clears the gradients of a part and adds its terms.
inline void entmax_backward(const EntmaxProblem& p, const EntmaxBackwardBuffers& b,
                            const BackwardPart& part) {
  const auto clear = [&](float* gradient, Range rows) {
    memset(gradient + rows.begin * p.dim, 0,
           static_cast<size_t>(rows.size() * p.dim) * sizeof(float));
  };
  if (part.by_query) clear(p.dq, part.queries);
  if (part.by_key) {
    clear(p.dk, part.keys);
    clear(p.dv, part.keys);
  }
  EntmaxPairs pairs;
  if (has_long_rows(p, part.queries)) {
    if (p.columns == nullptr) {
      pairs = pack_pairs(p, b.rows, part.queries.begin, part.queries.end);
    } else if (p.key_mask != nullptr) {
      pack_key_mask(b.rows.key_words, p);
    }
  }
  with_curve(p.alpha, [&](const auto& curve) {
    for (Range rows = part.queries; rows.begin < part.queries.end; rows.begin = rows.end) {
      rows.end = cut_chunk(p, b, {rows.begin, part.queries.end});
      differentiate_rows(curve, p, b, part, pairs, rows);
      if (part.by_key) sum_columns(p, b, rows, part.keys);
    }
  });
}

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
