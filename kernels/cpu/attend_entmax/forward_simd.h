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

inline void keep_support(const EntmaxProblem& p, int64_t i, const EntmaxList& list) {
  if (p.size == nullptr) return;
  p.size[i] = static_cast<int32_t>(list.count);
  if (list.count > p.room) return;
  memcpy(p.support + i * p.room, list.columns, static_cast<size_t>(list.count) * sizeof(uint32_t));
}

/// Outputs of row i from the scores of its support.
template <Power kPower>
inline void finish_row(const EntmaxCurve<kPower>& curve, const EntmaxProblem& p, int64_t i,
                       const EntmaxList& list, float tau) {
  p.tau[i] = tau;
  keep_support(p, i, list);
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

/// Rows of CSR.
template <Power kPower>
inline void forward_edges(const EntmaxCurve<kPower>& curve, const EntmaxProblem& p,
                          const EntmaxScoreBuffers& b, int64_t first_row, int64_t last_row) {
  if (p.key_mask != nullptr) pack_key_mask(b.key_words, p);
  for (int64_t i = first_row; i < last_row; ++i) {
    EntmaxList list = edges_of_row(p, b, i);
    EntmaxStream start{.scores = list.scores, .columns = list.columns};
    if (list.count > kMostLanes) {
      start_stream(curve, start, list.scores, list.count,
                   [&](int64_t e) { return first_lanes(list.count - e); });
      list.count =
          keep_above(list.scores, list.columns, list.scores, list.columns, list.count, start.cut);
    }
    const float tau = settle(curve, list, start.cut);
    finish_row(curve, p, i, list, tau);
  }
}

/// Rows of any other set of pairs.
template <Power kPower>
inline void forward_pairs(const EntmaxCurve<kPower>& curve, const EntmaxProblem& p,
                          const EntmaxScoreBuffers& b, int64_t first_row, int64_t last_row) {
  const EntmaxPairs pairs = pack_pairs(p, b, first_row, last_row);
  for (int64_t i = first_row; i < last_row; i += kMicroRows) {
    const int64_t rows = minimum(last_row - i, kMicroRows);
    EntmaxStream streams[kMicroRows];
    int64_t number[kMicroRows];
    for (int64_t r = 0; r < rows; ++r) {
      number[r] = i + r;
      float* query = b.queries + r * p.dim;
      scale_query(p, i + r, query);
      streams[r].scores = b.scores + r * b.stride;
      streams[r].columns = b.columns + r * b.stride;
      streams[r].slack = score_slack(query, p.dim, pairs.key_norm);
    }
    stream_rows(curve, p, b, pairs, number, rows, streams);
    for (int64_t r = 0; r < rows; ++r) {
      tighten_stream(curve, streams[r]);
      EntmaxList list = list_of(b, r, streams[r].count);
      score_list(p, b.queries + r * p.dim, list);
      const float tau = settle(curve, list, streams[r].cut);
      finish_row(curve, p, i + r, list, tau);
    }
  }
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
