// SPDX-License-Identifier: Apache-2.0
// Which keys of a row can be in its support. All pairs: scores by dense products of a few rows and a
// block of keys, of which a row keeps what is above its bound. Whoever is kept is scored once more
// as the edges of a graph are, so that tau sees the same bits whatever the pairs came from.
#pragma once

#include "kernels/cpu/attend/dropout_simd.h"
#include "kernels/cpu/attend_entmax/bodies.h"
#include "kernels/cpu/entmax/weights_simd.h"

namespace stipple::kernels::cpu::STIPPLE_SIMD {

/// q_i, so that products with keys are x.
inline void scale_query(const EntmaxProblem& p, int64_t i, float* query) {
  const float* q = p.q + i * p.dim;
  for (int64_t x = 0; x < p.dim; x += kWidth) {
    const Mask lanes = first_lanes(p.dim - x);
    store(query + x, load(q + x, lanes) * splat(p.scale), lanes);
  }
}

/// The largest norm of a key that counts; NaN where one is.
inline float largest_key_norm(const EntmaxProblem& p, const uint32_t* key_words) {
  float largest = 0.0f;
  for (int64_t j = 0; j < p.num_keys; ++j) {
    if ((key_words[j / 32] >> j % 32 & 1u) == 0) continue;
    const float square = dot(p.k + j * p.dim, p.k + j * p.dim, p.dim);
    if (isnan(square)) return square;
    largest = square > largest ? square : largest;
  }
  return sqrtf(largest);
}

/// How far apart two ways of rounding a product of a scaled query with a key may be: twice the bound
/// of one, D roundings of terms that add up to the norms' product.
inline float score_slack(const float* query, int64_t dim, float key_norm) {
  const float roundings = static_cast<float>(2 * (dim + 8)) * 0x1p-24f;
  return roundings * sqrtf(dot(query, query, dim)) * key_norm + std::numeric_limits<float>::min();
}

/// The pairs of a task's problem.
struct EntmaxPairs {
  int64_t real_keys = 0;  ///< up to the last one that counts
  Range packed;           ///< keys whose transpose there is
  float key_norm = 0.0f;
  bool all_count = false;  ///< no mask, pattern or bits
};

/// Makes ready for rows [first_row, last_row) of a problem that is not CSR.
inline EntmaxPairs pack_pairs(const EntmaxProblem& p, const EntmaxScoreBuffers& b,
                              int64_t first_row, int64_t last_row) {
  EntmaxPairs pairs;
  pairs.real_keys = pack_key_mask(b.key_words, p);
  pairs.packed = {p.pattern.keys_of(first_row, pairs.real_keys).begin / kTileKeys * kTileKeys,
                  p.pattern.keys_of(last_row - 1, pairs.real_keys).end};
  if (pairs.packed.begin > pairs.packed.end) pairs.packed.begin = pairs.packed.end;
  pack_transposed(b.packed_keys, p.k + pairs.packed.begin * p.dim, pairs.packed.size(), p.dim);
  pairs.key_norm = largest_key_norm(p, b.key_words);
  pairs.all_count = p.key_mask == nullptr && p.bits == nullptr && p.pattern.is_everything();
  return pairs;
}

/// Products of row i with keys [first_key, first_key + count) go by.
template <Power kPower>
inline void stream_block(const EntmaxCurve<kPower>& curve, const EntmaxProblem& p,
                         const EntmaxScoreBuffers& b, const EntmaxPairs& pairs, int64_t i,
                         EntmaxStream& row, const float* tile, int64_t first_key, int64_t count) {
  if (pairs.all_count && count % kWidth == 0) {
    return stream_scores(curve, row, tile, first_key, count,
                         [](int64_t) { return first_lanes(kWidth); });
  }
  uint32_t words[kBlockKeys / 32];
  uint32_t any = 0;
  for (int64_t w = 0; w < (count + 31) / 32; ++w) {
    words[w] = edge_word(p, i, first_key / 32 + w) & b.key_words[first_key / 32 + w];
    any |= words[w];
  }
  if (any == 0) return;
  stream_scores(curve, row, tile, first_key, count, [&](int64_t e) { return lanes_at(words, e); });
}

/// Streams the products of `rows` rows, whose scaled queries are in the buffer and whose numbers are
/// given, with all keys that they may want.
template <Power kPower>
inline void stream_rows(const EntmaxCurve<kPower>& curve, const EntmaxProblem& p,
                        const EntmaxScoreBuffers& b, const EntmaxPairs& pairs,
                        const int64_t* number, int64_t rows, EntmaxStream* streams) {
  const int64_t begin = p.pattern.keys_of(number[0], pairs.real_keys).begin / kTileKeys * kTileKeys;
  const int64_t end = p.pattern.keys_of(number[rows - 1], pairs.real_keys).end;
  for (int64_t j = begin; j < end; j += kBlockKeys) {
    const int64_t block = minimum(end - j, kBlockKeys);
    multiply<false>(b.tile, kBlockKeys, {b.queries, p.dim, 1},
                    packed_panels(b.packed_keys, p.dim, j - pairs.packed.begin), rows,
                    round_up(block, kPanel), p.dim);
    for (int64_t r = 0; r < rows; ++r) {
      stream_block(curve, p, b, pairs, number[r], streams[r], b.tile + r * kBlockKeys, j, block);
    }
  }
}

/// Row r of the buffers as a list.
inline EntmaxList list_of(const EntmaxScoreBuffers& b, int64_t r, int64_t count) {
  return {b.scores + r * b.stride, b.columns + r * b.stride, count, b.spare_scores,
          b.spare_columns};
}

/// The scores of a list's columns, as all see them.
inline void score_list(const EntmaxProblem& p, const float* query, EntmaxList& list) {
  gather_scores(list.scores, query, p.k, p.dim, list.columns, list.count, 1.0f);
  end_list(list.scores, list.count);
}

/// Row i's edges in CSR to keys that count, scored.
inline EntmaxList edges_of_row(const EntmaxProblem& p, const EntmaxScoreBuffers& b, int64_t i) {
  EntmaxList list = list_of(b, 0, 0);
  const uint32_t* columns = p.columns + p.row_ptr[i];
  const int64_t edges = p.row_ptr[i + 1] - p.row_ptr[i];
  if (p.key_mask == nullptr) {
    memcpy(list.columns, columns, static_cast<size_t>(edges) * sizeof(uint32_t));
    list.count = edges;
  } else {
    for (int64_t e = 0; e < edges; e += kWidth) {
      const Mask own = first_lanes(edges - e);
      const Words j = load(columns + e, own);
      list.count += compress_store(list.columns + list.count, j, own & key_counts(b.key_words, j));
    }
  }
  scale_query(p, i, b.queries);
  score_list(p, b.queries, list);
  return list;
}

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
