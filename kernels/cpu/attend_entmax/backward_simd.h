// SPDX-License-Identifier: Apache-2.0
// Vectorised backward of entmax attention over the support alone. Rows with few keys, chunk of
// queries by chunk: along the rows scores, weights, gradients of pairs and sums over a query's keys;
// then pairs are regrouped by key with a counting sort, and sums over a key's queries walk them. Dense
// rows, some at a time: scores and dA by dense products, of which the support is kept, and sums by
// products of tiles into which the gradients of pairs have been spread. No sum scatters, and none
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

/// Gradients of scores, `step` apart.
struct ScoreGradients {
  const float* first;
  int64_t step;
};

/// sum_j ds_j s_j / temperature, from x before it is overwritten and ds. The sum of ds is 0: so the
/// largest x may be taken off first.
inline float temperature_gradient(const EntmaxProblem& p, const float* x, ScoreGradients ds,
                                  int64_t count) {
  const float best = highest_of(x, count);
  double sum = 0.0;
  for (int64_t e = 0; e < count; ++e) sum += double{ds.first[e * ds.step]} * double{x[e] - best};
  const double scale = double{p.gradient_scale} * (double{p.alpha} - 1.0) * double{p.temperature};
  return static_cast<float>(sum / scale);
}

/// What is made of pairs [e, e + kWidth) of a row.
struct PairTerms {
  Floats dscore, weight, dp;
};

/// Calls visit(e, j, terms) for vectors of row i's pairs, from their weights and dA.
template <class Visit>
inline void for_each_pair_terms(const EntmaxProblem& p, int64_t i, const EntmaxList& list,
                                const float* weights, const float* dweights, const Visit& visit) {
  const Floats delta = splat(dot(p.dout + i * p.dim, p.final_o2 + i * p.dim, p.dim));
  for (int64_t e = 0; e < list.count; e += kWidth) {
    const Words j = load(list.columns + e, first_lanes(list.count - e));
    Floats factor = splat(1.0f);
    if (p.dropout.on) {
      factor = select(keeps(p.dropout, i, j), splat(p.dropout.rescale), splat(0.0f));
    }
    Floats dp = factor * load(dweights + e);
    asm("" : "+v"(dp.v));  // fused with the subtraction or not: never, whether dp is kept or not
    const Floats ds = load(list.spare_scores + e) * (dp - delta) * splat(p.gradient_scale);
    visit(e, j, PairTerms{ds, load(weights + e) * factor, dp});
  }
}

/// Gradients of row i's pairs from their weights and dA in `dweights`, which becomes dp.
inline void differentiate_pairs(const EntmaxProblem& p, int64_t i, const EntmaxList& list,
                                const float* weights, float* dweights, EdgeGradient* out) {
  for_each_pair_terms(
      p, i, list, weights, dweights, [&](int64_t e, Words j, const PairTerms& terms) {
        store(dweights + e, terms.dp);
        EdgeGradient pairs[kWidth];
        store_interleaved(&pairs->dscore, terms.dscore, terms.weight, terms.dp, bit_cast_floats(j));
        const int64_t left = minimum(list.count - e, kWidth);
        memcpy(out + e, pairs, static_cast<size_t>(left) * sizeof(EdgeGradient));
      });
}

/// What a row learns of its head's parameters.
inline void differentiate_head(const EntmaxProblem& p, int64_t i, const EntmaxList& list,
                               const float* weights, const float* dp, ScoreGradients ds) {
  if (p.dalpha != nullptr) p.dalpha[i] = alpha_gradient(weights, dp, list.count, p.alpha);
  if (p.dtemperature != nullptr) {
    p.dtemperature[i] = temperature_gradient(p, list.scores, ds, list.count);
  }
}

inline ScoreGradients gradients_of(const EdgeGradient* pairs) {
  return {&pairs->dscore, sizeof(EdgeGradient) / sizeof(float)};
}

/// The gradients of row i's pairs, which go to `out`, and its own; returns how many pairs there are.
/// The list has scores, ended.
template <Power kPower>
inline int64_t differentiate_row(const EntmaxCurve<kPower>& curve, const EntmaxProblem& p,
                                 const EntmaxBackwardBuffers& b, const BackwardPart& part,
                                 int64_t i, EntmaxList list, EdgeGradient* out) {
  float* u = list.spare_scores;
  entmax_weights(curve, list.scores, b.weights, u, list.count, p.final_tau[i]);
  if (!part.by_query) keep_keys(list, b.weights, u, part.keys);
  gather_scores(b.dweights, p.dout + i * p.dim, p.v, p.dim, list.columns, list.count, 1.0f);
  differentiate_pairs(p, i, list, b.weights, b.dweights, out);
  if (!part.by_query) return list.count;
  sum_alone(EdgeRun{out, list.count}, {p.dq + i * p.dim, &out->dscore, p.k, p.dim});
  differentiate_head(p, i, list, b.weights, b.dweights, gradients_of(out));
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

// --- rows with few keys --------------------------------------------------------------------------

inline bool is_dense_row(const EntmaxProblem& p, int64_t i) {
  return p.final_size[i] > p.room && p.final_support[i * p.room] != 0;
}

inline void drop_below_tau(const EntmaxProblem& p, int64_t i, EntmaxList& list) {
  list.count =
      keep_above(list.scores, list.columns, list.scores, list.columns, list.count, p.final_tau[i]);
}

/// The support of row i as forward left it.
inline EntmaxList kept_support(const EntmaxProblem& p, const EntmaxScoreBuffers& b, int64_t i) {
  EntmaxList list = list_of(b, 0, p.final_size[i]);
  memcpy(list.columns, p.final_support + i * p.room,
         static_cast<size_t>(list.count) * sizeof(uint32_t));
  scale_query(p, i, b.queries);
  score_list(p, b.queries, list);
  return list;
}

/// The supports of rows that are not CSR once more; calls visit(i, list) for each.
template <class Visit>
inline void find_supports(const EntmaxProblem& p, const EntmaxScoreBuffers& b,
                          const EntmaxPairs& pairs, const int64_t* number, int64_t rows,
                          const Visit& visit) {
  EntmaxStream streams[kMicroRows];
  begin_streams(p, b, pairs, number, rows, streams);
  for (int64_t r = 0; r < rows; ++r) streams[r].raise_bound(p.final_tau[number[r]]);
  for_each_block(p, b, pairs, number, rows, [&](const EntmaxBlock& block) {
    for (int64_t r = 0; r < rows; ++r) {
      stream_scores(streams[r], b.tile + r * kBlockKeys, block.first_key, block.count,
                    [&](int64_t e) { return block.allowed(r, e); });
    }
  });
  for (int64_t r = 0; r < rows; ++r) {
    EntmaxList list = list_of(b, r, streams[r].count);
    score_list(p, b.queries + r * p.dim, list);
    drop_below_tau(p, number[r], list);
    visit(number[r], list);
  }
}

/// Rows of a chunk, ascending: those from `begin` to `end` of an order, or by number.
struct RowRun {
  const int32_t* order;  ///< null: by number
  int64_t begin, end;

  int64_t row(int64_t place) const { return order == nullptr ? place : order[place]; }
};

/// The end of the rows from run.begin on that fit together; says where the pairs of each go.
inline int64_t cut_chunk(const EntmaxProblem& p, const EntmaxBackwardBuffers& b,
                         const RowRun& run) {
  const int64_t last = minimum(run.end, run.begin + kChunkRows);
  int64_t pairs = 0;
  int64_t at = run.begin;
  for (; at < last; ++at) {
    const int64_t i = run.row(at);
    const int64_t size = is_dense_row(p, i) ? 0 : p.final_size[i];
    if (at > run.begin && pairs + size > b.max_edges) break;
    b.row_start[at - run.begin] = static_cast<int32_t>(pairs);
    pairs += size;
  }
  return at;
}

/// The support of row i of CSR, as forward left it or found again.
inline EntmaxList edges_above_tau(const EntmaxProblem& p, const EntmaxScoreBuffers& b, int64_t i) {
  EntmaxList list = edges_of_row(p, b, 0, i);
  drop_below_tau(p, i, list);
  return list;
}

/// by_row and, if asked, gradients of the rows that are not dense.
template <Power kPower>
inline void differentiate_rows(const EntmaxCurve<kPower>& curve, const EntmaxProblem& p,
                               const EntmaxBackwardBuffers& b, const BackwardPart& part,
                               const EntmaxPairs& pairs, const RowRun& run) {
  int64_t place = 0;  ///< in the run
  const auto differentiate = [&](int64_t at, int64_t i, const EntmaxList& list) {
    b.row_count[at] = static_cast<int32_t>(
        differentiate_row(curve, p, b, part, i, list, b.by_row + b.row_start[at]));
  };
  int64_t waiting[kMicroRows] = {};
  int64_t count = 0;
  const auto find = [&] {  // without groups: rows by number
    if (count > 0) {
      find_supports(p, b.rows, pairs, waiting, count, [&](int64_t i, const EntmaxList& list) {
        differentiate(i - run.begin, i, list);
      });
    }
    count = 0;
  };
  for (; place < run.end - run.begin; ++place) {
    const int64_t i = run.row(run.begin + place);
    b.row_count[place] = 0;
    if (p.final_size[i] == 0) {
      clear_row(p, part, i);
    } else if (is_dense_row(p, i)) {
      continue;
    } else if (p.final_size[i] <= p.room) {
      differentiate(place, i, kept_support(p, b.rows, i));
    } else if (p.columns != nullptr) {
      differentiate(place, i, edges_above_tau(p, b.rows, i));
    } else {
      waiting[count++] = i;
      if (count == kMicroRows) find();
    }
  }
  find();
}

/// Calls visit(pair, its query) for all pairs of the rows, in order.
template <class Visit>
inline void for_each_pair(const EntmaxBackwardBuffers& b, const RowRun& run, const Visit& visit) {
  for (int64_t at = 0; at < run.end - run.begin; ++at) {
    const EdgeGradient* first = b.by_row + b.row_start[at];
    const int64_t i = run.row(run.begin + at);
    for (int64_t e = 0; e < b.row_count[at]; ++e) visit(first[e], i);
  }
}

/// Regroups the pairs of the rows by key, rows ascending within a key. place(key): where the key is
/// among `count`, or outside of them, and its pairs are left out. Afterwards the pairs of place x end
/// at column_start[x], where those of the next begin.
template <class Place>
inline void sort_by_key(const EntmaxBackwardBuffers& b, const RowRun& run, uint32_t count,
                        const Place& place) {
  uint32_t* start = b.column_start;
  memset(start, 0, size_t{count + 1} * sizeof(uint32_t));
  for_each_pair(b, run, [&](const EdgeGradient& pair, int64_t) {
    const uint32_t at = place(pair.other);
    if (at < count) ++start[at + 1];
  });
  for (uint32_t at = 0; at < count; ++at) start[at + 1] += start[at];
  for_each_pair(b, run, [&](const EdgeGradient& pair, int64_t i) {
    const uint32_t at = place(pair.other);
    if (at >= count) return;
    EdgeGradient& moved = b.by_column[start[at]++];
    _mm_storeu_ps(&moved.dscore, _mm_loadu_ps(&pair.dscore));
    moved.other = static_cast<uint32_t>(i);
  });
}

/// Adds the pairs of key j, queries ascending.
inline void sum_key(const EntmaxProblem& p, int64_t j, const EdgeGradient* pairs, int64_t count) {
  if (count == 0) return;
  sum_edges<true>(EdgeRun{pairs, count}, {}, {p.dk + j * p.dim, &pairs->dscore, p.q, p.dim},
                  {p.dv + j * p.dim, &pairs->weight, p.dout, p.dim});
}

/// Adds up the pairs of the rows by key.
inline void sum_columns(const EntmaxProblem& p, const EntmaxBackwardBuffers& b, const RowRun& run,
                        Range keys) {
  sort_by_key(b, run, static_cast<uint32_t>(keys.size()),
              [&](uint32_t j) { return j - static_cast<uint32_t>(keys.begin); });
  int64_t first = 0;
  for (int64_t j = keys.begin; j < keys.end; ++j) {
    const int64_t last = b.column_start[j - keys.begin];
    sum_key(p, j, b.by_column + first, last - first);
    first = last;
  }
}

template <Power kPower>
inline void backward_sparse_rows(const EntmaxCurve<kPower>& curve, const EntmaxProblem& p,
                                 const EntmaxBackwardBuffers& b, const BackwardPart& part,
                                 const EntmaxPairs& pairs) {
  for (RowRun run = {nullptr, part.queries.begin, 0}; run.begin < part.queries.end;
       run.begin = run.end) {
    run.end = part.queries.end;
    run.end = cut_chunk(p, b, run);
    differentiate_rows(curve, p, b, part, pairs, run);
    if (part.by_key) sum_columns(p, b, run, part.keys);
  }
}

// --- rows with few keys, group by group ----------------------------------------------------------
//
// Queries of a group mostly have its keys, which stay in the cache until all its queries have been
// there. A key's sum is in the order of its queries, whatever groups they are of: pairs across groups
// are made first, and enter when it is their turn.

inline bool is_stray(const EntmaxStrayBuffers& s, Range own_keys, uint32_t j) {
  return s.key_place[j] < own_keys.begin || s.key_place[j] >= own_keys.end;
}

inline void find_places(const EntmaxProblem& p, const EntmaxStrayBuffers& s) {
  for (int64_t group = 0; group <= p.groups.count; ++group) {
    for (int64_t at = p.groups.query_ptr[group]; at < p.groups.query_ptr[group + 1]; ++at)
      s.query_group[p.groups.queries[at]] = static_cast<int32_t>(group);
  }
  for (int64_t at = 0; at < p.num_keys; ++at)
    s.key_place[p.groups.keys[at]] = static_cast<int32_t>(at);
}

/// Whether row i has a key of another group in its support.
inline bool has_stray(const EntmaxProblem& p, const EntmaxBackwardBuffers& b, int64_t i,
                      Range own_keys) {
  const bool is_kept = p.final_size[i] <= p.room;
  const uint32_t* columns = is_kept ? p.final_support + i * p.room : p.columns + p.row_ptr[i];
  const int64_t count = is_kept ? p.final_size[i] : p.row_ptr[i + 1] - p.row_ptr[i];
  EntmaxList strays = list_of(b.rows, 0, 0);
  const auto* places = reinterpret_cast<const uint32_t*>(b.strays.key_place);
  for (int64_t e = 0; e < count; e += kWidth) {
    const Mask lanes = first_lanes(count - e);
    const Words j = load(columns + e, lanes);
    const Words place = gather(places, j) - splat_words(static_cast<uint32_t>(own_keys.begin));
    const Mask own = less(place, splat_words(static_cast<uint32_t>(own_keys.size())));
    const Mask stray = lanes & !own;
    if (mask_bits(stray) == 0) continue;
    if (is_kept) return true;
    strays.count += compress_store(strays.columns + strays.count, j, stray);
  }
  if (strays.count == 0) return false;
  scale_query(p, i, b.rows.queries);
  score_list(p, b.rows.queries, strays);
  return highest_of(strays.scores, strays.count) > p.final_tau[i];
}

/// The pairs across groups of a part's rows, by key; false: there is no room for them.
template <Power kPower>
inline bool find_strays(const EntmaxCurve<kPower>& curve, const EntmaxProblem& p,
                        const EntmaxBackwardBuffers& b, const BackwardPart& part) {
  const EntmaxStrayBuffers& s = b.strays;
  const BackwardPart by_key = {part.queries, part.keys, false, true};
  int64_t found = 0;
  for (int64_t i = part.queries.begin; i < part.queries.end; ++i) {
    const Range own_keys = keys_of_group(p, s.query_group[i]);
    if (p.final_size[i] == 0 || is_dense_row(p, i) || !has_stray(p, b, i, own_keys)) continue;
    const EntmaxList list =
        p.final_size[i] <= p.room ? kept_support(p, b.rows, i) : edges_above_tau(p, b.rows, i);
    const int64_t count = differentiate_row(curve, p, b, by_key, i, list, b.by_row);
    for (int64_t e = 0; e < count; ++e) {
      if (!is_stray(s, own_keys, b.by_row[e].other)) continue;
      if (found == s.room) return false;
      s.pairs[found] = b.by_row[e];
      s.pairs[found].other = static_cast<uint32_t>(i);
      s.keys[found++] = b.by_row[e].other;
    }
  }
  memset(s.next, 0, static_cast<size_t>(p.num_keys) * sizeof(uint32_t));
  for (int64_t e = 0; e < found; ++e) ++s.next[s.keys[e]];
  uint32_t first = 0;
  for (int64_t j = 0; j < p.num_keys; ++j) {
    const uint32_t count = s.next[j];
    s.next[j] = s.key_end[j] = first;
    first += count;
  }
  for (int64_t e = 0; e < found; ++e) s.by_key[s.key_end[s.keys[e]]++] = s.pairs[e];
  return true;
}

/// Adds a key's pairs with queries of its group, and before each those across groups that come first.
inline void sum_key_in_order(const EntmaxProblem& p, const EntmaxStrayBuffers& s, int64_t j,
                             const EdgeGradient* pairs, int64_t count) {
  int64_t done = 0;
  for (uint32_t& stray = s.next[j]; stray < s.key_end[j]; ++stray) {
    int64_t first = done;
    while (first < count && pairs[first].other < s.by_key[stray].other) ++first;
    if (first == count) break;
    sum_key(p, j, pairs + done, first - done);
    sum_key(p, j, s.by_key + stray, 1);
    done = first;
  }
  sum_key(p, j, pairs + done, count - done);
}

/// The rows of a part among those of a group.
inline RowRun rows_of_group(const EntmaxProblem& p, int64_t group, Range rows) {
  RowRun run = {p.groups.queries, p.groups.query_ptr[group], p.groups.query_ptr[group + 1]};
  while (run.begin < run.end && run.row(run.begin) < rows.begin) ++run.begin;
  while (run.begin < run.end && run.row(run.end - 1) >= rows.end) --run.end;
  return run;
}

/// by_row's pairs of a run's rows, added up by key of their group.
inline void sum_group_keys(const EntmaxProblem& p, const EntmaxBackwardBuffers& b,
                           const RowRun& run, Range keys) {
  sort_by_key(b, run, static_cast<uint32_t>(keys.size()), [&](uint32_t j) {
    return static_cast<uint32_t>(b.strays.key_place[j] - keys.begin);
  });
  int64_t first = 0;
  for (int64_t at = 0; at < keys.size(); ++at) {
    const int64_t last = b.column_start[at];
    sum_key_in_order(p, b.strays, p.groups.keys[keys.begin + at], b.by_column + first,
                     last - first);
    first = last;
  }
}

// Where most pairs of a group are in supports, all are made: products of its queries with its keys,
// of which a block stays in the first-level cache for all queries, and sums by products of tiles, in
// which a pair outside of the supports adds 0. Each number is made of the same terms in the same order.

/// Rows of a run that have keys and are not dense.
struct GroupRows {
  int64_t number[kGroupRows];
  bool has_stray[kGroupRows];
  int64_t count = 0;
  int64_t pairs = 0;  ///< in their supports
};

inline GroupRows rows_of_run(const EntmaxProblem& p, const RowRun& run) {
  GroupRows rows;
  for (int64_t at = run.begin; at < run.end; ++at) {
    const int64_t i = run.row(at);
    if (p.final_size[i] == 0 || is_dense_row(p, i)) continue;
    rows.number[rows.count++] = i;
    rows.pairs += p.final_size[i];
  }
  return rows;
}

/// Rows of keys side by side; a number that is not finite in one of them: NaN, else 0.
template <class Number>
inline Floats pack_rows(float* packed, const float* rows, int64_t dim, const Number* number,
                        int64_t count) {
  Floats sum = splat(0.0f);
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t x = 0; x < dim; x += kWidth) {
      const Mask lanes = first_lanes(dim - x);
      const Floats value = load(rows + number[r] * dim + x, lanes);
      sum = fma(value, splat(0.0f), sum);
      store(packed + r * dim + x, value, lanes);
    }
  }
  return sum;
}

/// The support of row i, the r-th of the tiles, with scores, and dA in b.dweights.
inline EntmaxList support_in_tile(const EntmaxProblem& p, const EntmaxBackwardBuffers& b,
                                  const GroupKeys& keys, int64_t i, int64_t r) {
  const bool is_kept = p.final_size[i] <= p.room;
  const uint32_t* columns = is_kept ? p.final_support + i * p.room : p.columns + p.row_ptr[i];
  EntmaxList list = list_of(b.rows, 0, is_kept ? p.final_size[i] : p.row_ptr[i + 1] - p.row_ptr[i]);
  EntmaxList strays = list_of(b.rows, 1, 0);
  uint32_t* stray_at = b.rows.spare_columns;
  const auto* places = reinterpret_cast<const uint32_t*>(b.strays.key_place);
  const float* scores = b.rows.group_scores + r * keys.stride;
  const float* dweights = b.group.dweights + r * keys.stride;
  for (int64_t e = 0; e < list.count; e += kWidth) {
    const Mask lanes = first_lanes(list.count - e);
    const Words j = load(columns + e, lanes);
    const Words place = gather(places, j) - splat_words(static_cast<uint32_t>(keys.places.begin));
    const Mask own = less(place, splat_words(static_cast<uint32_t>(keys.count))) & lanes;
    const Words at = select(own, place, splat_words(0));
    store(list.columns + e, j);
    store(list.scores + e, gather(scores, at));
    store(b.dweights + e, gather(dweights, at));
    const Mask stray = lanes & !own;
    if (mask_bits(stray) == 0) continue;
    compress_store(stray_at + strays.count, iota() + splat_words(static_cast<uint32_t>(e)), stray);
    strays.count += compress_store(strays.columns + strays.count, j, stray);
  }
  if (strays.count > 0) {
    const auto score = [&](float* out, const float* row, const float* others) {
      gather_scores(strays.scores, row, others, p.dim, strays.columns, strays.count, 1.0f);
      for (int64_t e = 0; e < strays.count; ++e) out[stray_at[e]] = strays.scores[e];
    };
    score(list.scores, b.rows.group_queries + r * p.dim, p.k);
    score(b.dweights, p.dout + i * p.dim, p.v);
  }
  if (is_kept) {
    end_list(list.scores, list.count);
    return list;
  }
  int64_t kept = 0;
  for (int64_t e = 0; e < list.count; e += kWidth) {
    const Floats x = load(list.scores + e);
    const Words j = load(list.columns + e);
    Mask own = exceeds(x, splat(p.final_tau[i])) & first_lanes(list.count - e);
    if (p.key_mask != nullptr) own = own & key_counts(b.rows.key_words, j);
    compress_store(list.columns + kept, j, own);
    compress_store(b.dweights + kept, load(b.dweights + e), own);
    kept += compress_store(list.scores + kept, x, own);
  }
  list.count = kept;
  end_list(list.scores, kept);
  return list;
}

/// Whether row i of CSR has all keys of a group.
inline bool has_all_keys(const EntmaxProblem& p, int64_t i, const GroupKeys& keys) {
  const uint32_t* columns = p.columns + p.row_ptr[i];
  const int64_t edges = p.row_ptr[i + 1] - p.row_ptr[i];
  int64_t e = 0, at = 0;
  while (at < keys.count && e < edges) {
    const Mask lanes = first_lanes(minimum(keys.count - at, edges - e));
    const uint32_t other =
        mask_bits(lanes & !equal(load(columns + e, lanes), load(keys.columns + at, lanes)));
    const int64_t alike =
        other != 0 ? __builtin_ctz(other) : minimum(minimum(keys.count - at, edges - e), kWidth);
    e += alike;
    at += alike;
    if (other == 0) continue;
    if (columns[e] > keys.columns[at]) return false;
    ++e;  // of another group
  }
  return at == keys.count;
}

/// The row's support as the scores in its tile above tau: false where that is not it, as some of it is
/// across groups or at the edge.
inline bool take_support(const EntmaxProblem& p, const EntmaxBackwardBuffers& b,
                         const GroupKeys& keys, int64_t i, int64_t r, EntmaxList& list) {
  const float* scores = b.rows.group_scores + r * keys.stride;
  const float* dweights = b.group.dweights + r * keys.stride;
  for (int64_t at = 0; at < keys.count; at += kWidth) {
    const Floats x = load(scores + at);
    const Mask own = exceeds(x, splat(p.final_tau[i])) & first_lanes(keys.count - at);
    compress_store(list.columns + list.count, load(keys.columns + at, own), own);
    compress_store(b.dweights + list.count, load(dweights + at), own);
    list.count += compress_store(list.scores + list.count, x, own);
  }
  if (list.count != p.final_size[i]) return false;
  if (p.final_size[i] > p.room) return p.key_mask == nullptr && has_all_keys(p, i, keys);
  return memcmp(list.columns, p.final_support + i * p.room,
                static_cast<size_t>(list.count) * sizeof(uint32_t)) == 0;
}

/// Row i's gradients right into the tiles, where its support is all within the group; false: nothing
/// is done.
template <Power kPower>
inline bool differentiate_whole_row(const EntmaxCurve<kPower>& curve, const EntmaxProblem& p,
                                    const EntmaxBackwardBuffers& b, const GroupKeys& keys,
                                    int64_t i, int64_t r) {
  if (p.dalpha != nullptr || p.dtemperature != nullptr) return false;
  EntmaxList list = list_of(b.rows, 0, 0);
  if (!take_support(p, b, keys, i, r, list)) return false;
  end_list(list.scores, list.count);
  entmax_weights(curve, list.scores, b.weights, list.spare_scores, list.count, p.final_tau[i]);
  for_each_pair_terms(p, i, list, b.weights, b.dweights,
                      [&](int64_t e, Words, const PairTerms& terms) {
                        store(b.dweights + e, terms.dscore);
                        store(b.weights + e, terms.weight);
                      });
  const float* scores = b.rows.group_scores + r * keys.stride;
  int64_t e = 0;
  for (int64_t at = 0; at < keys.count; at += kWidth) {
    const Mask own =
        exceeds(load(scores + at), splat(p.final_tau[i])) & first_lanes(keys.count - at);
    store(b.group.dscores + r * keys.stride + at, expand_load(b.dweights + e, own));
    store(b.group.weights + r * keys.stride + at, expand_load(b.weights + e, own));
    e += __builtin_popcount(mask_bits(own));
  }
  return true;
}

/// Gradients of the pairs of a group's rows, in tiles; dq of rows with pairs across groups.
template <Power kPower>
inline void differentiate_group(const EntmaxCurve<kPower>& curve, const EntmaxProblem& p,
                                const EntmaxBackwardBuffers& b, const GroupKeys& keys,
                                GroupRows& rows) {
  const EntmaxGroupTiles& g = b.group;
  for (int64_t r = 0; r < rows.count; ++r) {
    const int64_t i = rows.number[r];
    rows.has_stray[r] = false;
    if (differentiate_whole_row(curve, p, b, keys, i, r)) continue;
    for (float* tile : {g.dscores, g.weights})
      memset(tile + r * keys.stride, 0, static_cast<size_t>(keys.stride) * sizeof(float));
    const EntmaxList list = support_in_tile(p, b, keys, i, r);
    EdgeGradient* pairs = b.by_row;
    entmax_weights(curve, list.scores, b.weights, list.spare_scores, list.count, p.final_tau[i]);
    differentiate_pairs(p, i, list, b.weights, b.dweights, pairs);
    differentiate_head(p, i, list, b.weights, b.dweights, gradients_of(pairs));
    for (int64_t e = 0; e < list.count; ++e) {
      const int64_t at = b.strays.key_place[pairs[e].other] - keys.places.begin;
      if (at < 0 || at >= keys.count) {
        rows.has_stray[r] = true;
        continue;
      }
      g.dscores[r * keys.stride + at] = pairs[e].dscore;
      g.weights[r * keys.stride + at] = pairs[e].weight;
    }
    if (!rows.has_stray[r]) continue;
    sum_alone(EdgeRun{pairs, list.count}, {p.dq + i * p.dim, &pairs->dscore, p.k, p.dim});
  }
}

/// Adds a tile's pairs of one key, the at-th of its group.
inline void sum_key_of_tile(const EntmaxProblem& p, const EntmaxBackwardBuffers& b,
                            const GroupKeys& keys, const GroupRows& rows, int64_t at) {
  for (int64_t r = 0; r < rows.count; ++r) {
    b.by_column[r] = {b.group.dscores[r * keys.stride + at], b.group.weights[r * keys.stride + at],
                      0.0f, static_cast<uint32_t>(rows.number[r])};
  }
  sum_key_in_order(p, b.strays, keys.columns[at], b.by_column, rows.count);
}

/// Whether pairs across groups may have to enter among these queries.
inline bool awaits_stray(const EntmaxStrayBuffers& s, uint32_t j, int64_t last_query) {
  return s.next[j] < s.key_end[j] && s.by_key[s.next[j]].other <= last_query;
}

inline void sum_group(const EntmaxProblem& p, const EntmaxBackwardBuffers& b,
                      const BackwardPart& part, const GroupKeys& keys, const GroupRows& rows) {
  const EntmaxGroupTiles& g = b.group;
  const int64_t d = p.dim;
  const auto row_bytes = static_cast<size_t>(d) * sizeof(float);
  multiply<false>(g.queries[2], d, {g.dscores, keys.stride, 1}, row_major(g.keys[0], d), rows.count,
                  d, keys.count);
  for (int64_t r = 0; r < rows.count; ++r) {
    if (!rows.has_stray[r]) memcpy(p.dq + rows.number[r] * d, g.queries[2] + r * d, row_bytes);
  }
  if (!part.by_key) return;
  const auto sum = [&](float* gradient, float* packed, const float* tile, const float* others) {
    pack_rows(packed, gradient, d, keys.columns, keys.count);
    multiply<true, true>(packed, d, {tile, 1, keys.stride}, row_major(others, d), keys.count, d,
                         rows.count);
    for (int64_t at = 0; at < keys.count; ++at) {
      if (awaits_stray(b.strays, keys.columns[at], rows.number[rows.count - 1])) continue;
      memcpy(gradient + keys.columns[at] * d, packed + at * d, row_bytes);
    }
  };
  sum(p.dk, g.keys[1], g.dscores, g.queries[0]);
  sum(p.dv, g.keys[2], g.weights, g.queries[1]);
  for (int64_t at = 0; at < keys.count; ++at) {
    if (awaits_stray(b.strays, keys.columns[at], rows.number[rows.count - 1]))
      sum_key_of_tile(p, b, keys, rows, at);
  }
}

/// The rows of a run by tiles; false: nothing is done, as that does not pay or a 0 times what is there
/// would not be 0.
template <Power kPower>
inline bool backward_tiles(const EntmaxCurve<kPower>& curve, const EntmaxProblem& p,
                           const EntmaxBackwardBuffers& b, const BackwardPart& part,
                           const RowRun& run, Range places) {
  constexpr int64_t kWorthwhile = 4;  // a pair by tiles costs a fourth of one by lists
  if (!part.by_query || places.size() > kMostGroupKeys) return false;
  const GroupKeys keys = group_keys(p, places);
  GroupRows rows = rows_of_run(p, run);
  if (rows.count == 0 || rows.pairs * kWorthwhile < rows.count * keys.count) return false;
  const EntmaxGroupTiles& g = b.group;
  const Floats odd = pack_rows(g.queries[0], p.q, p.dim, rows.number, rows.count) +
                     pack_rows(g.queries[1], p.dout, p.dim, rows.number, rows.count) +
                     pack_rows(g.keys[0], p.k, p.dim, keys.columns, keys.count);
  if (isnan(reduce_add(odd))) return false;
  for (int64_t at = run.begin; at < run.end; ++at) {
    if (p.final_size[run.row(at)] == 0) clear_row(p, part, run.row(at));
  }
  for (int64_t r = 0; r < rows.count; ++r)
    scale_query(p, rows.number[r], b.rows.group_queries + r * p.dim);
  multiply_group(b.rows.group_scores, keys.stride, b.rows.group_queries, rows.count, p.k, p.dim,
                 keys.columns, keys.count);
  multiply_group(g.dweights, keys.stride, g.queries[1], rows.count, p.v, p.dim, keys.columns,
                 keys.count);
  differentiate_group(curve, p, b, keys, rows);
  sum_group(p, b, part, keys, rows);
  return true;
}

/// backward_sparse_rows by groups; false: nothing is done, as too many pairs are across them.
template <Power kPower>
inline bool backward_groups(const EntmaxCurve<kPower>& curve, const EntmaxProblem& p,
                            const EntmaxBackwardBuffers& b, const BackwardPart& part,
                            const EntmaxPairs& pairs) {
  if (p.groups.queries == nullptr) return false;
  find_places(p, b.strays);
  if (part.by_key && !find_strays(curve, p, b, part)) return false;
  for (int64_t group = 0; group <= p.groups.count; ++group) {
    const Range keys = keys_of_group(p, group);
    const RowRun all = rows_of_group(p, group, part.queries);
    const int64_t fit = rows_of_tile(keys.size());
    for (RowRun run = all; run.begin < all.end; run.begin = run.end) {
      run.end = minimum(all.end, run.begin + (fit > 0 ? fit : kGroupRows));
      if (backward_tiles(curve, p, b, part, run, keys)) continue;
      run.end = cut_chunk(p, b, run);
      differentiate_rows(curve, p, b, part, pairs, run);
      if (part.by_key) sum_group_keys(p, b, run, keys);
    }
  }
  if (!part.by_key) return true;
  for (int64_t j = part.keys.begin; j < part.keys.end; ++j) {
    sum_key(p, j, b.strays.by_key + b.strays.next[j], b.strays.key_end[j] - b.strays.next[j]);
  }
  return true;
}

// --- dense rows ----------------------------------------------------------------------------------

/// Rows that are worked on together, up to kDenseRows, with room for their pairs.
struct DenseRows {
  float* dscores;  ///< of pairs, and weights, in place of by_row
  float* weights;
  int64_t lanes_stride;  ///< of a row in dense_lanes
  int64_t number[kDenseRows];
  int64_t start[kDenseRows];  ///< of the row's pairs
  int64_t rows = 0;
  int64_t pairs = 0;
};

/// What stream_scores does for a row whose tau is known, dA with it.
inline void stream_pairs(EntmaxList& list, float* dweights, const float* scores, const float* dtile,
                         float tau, const EntmaxBlock& block, int64_t r, uint16_t* row_lanes) {
  for (int64_t e = 0; e < block.count; e += kWidth) {
    const Floats x = load(scores + e);
    const Mask lanes = exceeds(x, splat(tau)) & block.allowed(r, e);
    row_lanes[(block.first_key + e) / kWidth] = static_cast<uint16_t>(mask_bits(lanes));
    if (mask_bits(lanes) == 0) continue;
    compress_store(list.columns + list.count,
                   iota() + splat_words(static_cast<uint32_t>(block.first_key + e)), lanes);
    compress_store(dweights + list.count, load(dtile + e), lanes);
    list.count += compress_store(list.scores + list.count, x, lanes);
  }
}

/// Pairs of rows [first, first + rows) of those, up to kMicroRows; all of one in CSR.
template <Power kPower>
inline void differentiate_dense(const EntmaxCurve<kPower>& curve, const EntmaxProblem& p,
                                const EntmaxBackwardBuffers& b, const BackwardPart& part,
                                const EntmaxPairs& pairs, DenseRows& dense, int64_t first,
                                int64_t rows) {
  const int64_t* number = dense.number + first;
  const float* douts = b.dense_rows[1] + first * p.dim;
  EntmaxStream streams[kMicroRows];
  EntmaxList lists[kMicroRows];
  begin_streams(p, b.rows, pairs, number, rows, streams);
  for (int64_t r = 0; r < rows; ++r) lists[r] = list_of(b.rows, r, 0);
  for_each_block(p, b.rows, pairs, number, rows, [&](const EntmaxBlock& block) {
    multiply<false>(b.dtile, kBlockKeys, {douts, p.dim, 1},
                    packed_panels(b.packed_values, p.dim, block.first_key - pairs.packed.begin),
                    rows, round_up(block.count, kPanel), p.dim);
    for (int64_t r = 0; r < rows; ++r) {
      stream_pairs(lists[r], b.dweights + r * b.rows.stride, b.rows.tile + r * kBlockKeys,
                   b.dtile + r * kBlockKeys, p.final_tau[number[r]], block, r,
                   b.dense_lanes + (first + r) * dense.lanes_stride);
    }
  });
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t i = number[r];
    float* dscores = dense.dscores + dense.start[first + r];
    float* weights = dense.weights + dense.start[first + r];
    float* dweights = b.dweights + r * b.rows.stride;
    end_list(lists[r].scores, lists[r].count);
    entmax_weights(curve, lists[r].scores, b.weights, lists[r].spare_scores, lists[r].count,
                   p.final_tau[i]);
    // Whole vectors: what lies behind the row's is the next one's, and made later.
    for_each_pair_terms(p, i, lists[r], b.weights, dweights,
                        [&](int64_t e, Words, const PairTerms& terms) {
                          store(dscores + e, terms.dscore);
                          store(weights + e, terms.weight);
                          store(dweights + e, terms.dp);
                        });
    if (part.by_query) differentiate_head(p, i, lists[r], b.weights, dweights, {dscores, 1});
  }
}

/// Spreads the pairs of rows [first, first + rows) with keys [key, key + kTileKeys) over tiles;
/// `next` are the rows' first ones from there on.
inline void spread_pairs(const EntmaxBackwardBuffers& b, const DenseRows& dense, int64_t first,
                         int64_t rows, int64_t key, int64_t* next) {
  for (int64_t r = 0; r < rows; ++r) {
    const uint16_t* row_lanes = b.dense_lanes + (first + r) * dense.lanes_stride + key / kWidth;
    int64_t e = dense.start[first + r] + next[first + r];
    for (int64_t x = 0; x < kTileKeys; x += kWidth) {
      const Mask lanes = mask_from_bits(row_lanes[x / kWidth]);
      const int64_t at = r * kTileKeys + x;
      store(b.dense_tiles[0] + at, expand_load(dense.dscores + e, lanes));
      store(b.dense_tiles[1] + at, expand_load(dense.weights + e, lanes));
      e += __builtin_popcount(mask_bits(lanes));
    }
    next[first + r] = e - dense.start[first + r];
  }
}

/// Sums of the rows' pairs, by products of tiles: a tile of keys stays in the cache for all rows.
inline void sum_dense(const EntmaxProblem& p, const EntmaxBackwardBuffers& b,
                      const BackwardPart& part, const DenseRows& dense) {
  float* const* rows = b.dense_rows;
  const int64_t d = p.dim;
  memset(rows[2], 0, static_cast<size_t>(dense.rows * d) * sizeof(float));
  int64_t next[kDenseRows] = {};
  for (int64_t j = 0; j < p.num_keys; j += kTileKeys) {
    const int64_t keys = minimum(p.num_keys - j, kTileKeys);
    const bool own_keys = part.by_key && j >= part.keys.begin && j < part.keys.end;
    for (int64_t r = 0; r < dense.rows; r += kTileRows) {
      const int64_t count = minimum(dense.rows - r, kTileRows);
      spread_pairs(b, dense, r, count, j, next);
      if (part.by_query) {
        multiply<true>(rows[2] + r * d, d, {b.dense_tiles[0], kTileKeys, 1},
                       row_major(p.k + j * d, d), count, d, keys);
      }
      if (!own_keys) continue;
      multiply<true>(p.dk + j * d, d, {b.dense_tiles[0], 1, kTileKeys},
                     row_major(rows[0] + r * d, d), keys, d, count);
      multiply<true>(p.dv + j * d, d, {b.dense_tiles[1], 1, kTileKeys},
                     row_major(rows[1] + r * d, d), keys, d, count);
    }
  }
  if (!part.by_query) return;
  for (int64_t r = 0; r < dense.rows; ++r) {
    memcpy(p.dq + dense.number[r] * d, rows[2] + r * d, static_cast<size_t>(d) * sizeof(float));
  }
}

template <Power kPower>
inline void finish_dense_rows(const EntmaxCurve<kPower>& curve, const EntmaxProblem& p,
                              const EntmaxBackwardBuffers& b, const BackwardPart& part,
                              const EntmaxPairs& pairs, DenseRows& dense) {
  const auto row_bytes = static_cast<size_t>(p.dim) * sizeof(float);
  memset(b.dense_lanes, 0, static_cast<size_t>(dense.rows * dense.lanes_stride) * sizeof(uint16_t));
  for (int64_t r = 0; r < dense.rows; ++r) {
    memcpy(b.dense_rows[0] + r * p.dim, p.q + dense.number[r] * p.dim, row_bytes);
    memcpy(b.dense_rows[1] + r * p.dim, p.dout + dense.number[r] * p.dim, row_bytes);
  }
  const int64_t together = p.columns != nullptr ? 1 : kMicroRows;
  for (int64_t r = 0; r < dense.rows; r += together) {
    if (p.columns != nullptr) pack_row_words(p, b.rows, dense.number[r]);
    differentiate_dense(curve, p, b, part, pairs, dense, r, minimum(dense.rows - r, together));
  }
  sum_dense(p, b, part, dense);
  dense.rows = dense.pairs = 0;
}

/// Adds the terms of dense rows.
template <Power kPower>
inline void backward_dense_rows(const EntmaxCurve<kPower>& curve, const EntmaxProblem& p,
                                const EntmaxBackwardBuffers& b, const BackwardPart& part,
                                const EntmaxPairs& pairs) {
  pack_transposed(b.packed_values, p.v + pairs.packed.begin * p.dim, pairs.packed.size(), p.dim);
  DenseRows dense;
  dense.dscores = &b.by_row->dscore;
  dense.weights = dense.dscores + b.max_edges + kWidth;  // the last row's last vector ends between
  dense.lanes_stride = (b.rows.stride - kEntmaxSlack) / kWidth;
  for (int64_t i = part.queries.begin; i < part.queries.end; ++i) {
    if (!is_dense_row(p, i)) continue;
    if (dense.rows == kDenseRows || dense.pairs + p.final_size[i] > b.max_edges) {
      finish_dense_rows(curve, p, b, part, pairs, dense);
    }
    dense.number[dense.rows] = i;
    dense.start[dense.rows++] = dense.pairs;
    dense.pairs += p.final_size[i];
  }
  if (dense.rows > 0) finish_dense_rows(curve, p, b, part, pairs, dense);
}

// --- all -----------------------------------------------------------------------------------------

/// What the rows of a part need beyond those that forward kept.
struct LongRows {
  bool any = false;
  bool dense = false;
};

inline LongRows long_rows(const EntmaxProblem& p, Range rows) {
  LongRows found;
  for (int64_t i = rows.begin; i < rows.end; ++i) {
    found.any |= p.final_size[i] > p.room;
    found.dense |= is_dense_row(p, i);
  }
  return found;
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
  const LongRows rows_to_find = long_rows(p, part.queries);
  EntmaxPairs pairs;
  if (rows_to_find.dense || (rows_to_find.any && p.columns == nullptr)) {
    pairs = pack_pairs(p, b.rows, part.queries.begin, part.queries.end);
  } else if (rows_to_find.any && p.key_mask != nullptr) {
    pack_key_mask(b.rows.key_words, p);
  }
  with_curve(p.alpha, [&](const auto& curve) {
    if (!backward_groups(curve, p, b, part, pairs)) {
      backward_sparse_rows(curve, p, b, part, pairs);
    }
    if (rows_to_find.dense) backward_dense_rows(curve, p, b, part, pairs);
  });
}

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
