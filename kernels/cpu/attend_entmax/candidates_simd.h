// SPDX-License-Identifier: Apache-2.0
// Which keys of a row can be in its support. All pairs: scores by dense products of a few rows and a
// block of keys, of which a row keeps what is above its bound. Who is kept is scored once more as the
// edges of a graph are, so that tau sees the same bits whatever the pairs came from; of dense rows
// all see the products, a graph's, too.
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

/// Makes ready for dense products of rows [first_row, last_row).
inline EntmaxPairs pack_pairs(const EntmaxProblem& p, const EntmaxScoreBuffers& b,
                              int64_t first_row, int64_t last_row) {
  EntmaxPairs pairs;
  pairs.real_keys = pack_key_mask(b.key_words, p);
  pairs.packed = {p.pattern.keys_of(first_row, pairs.real_keys).begin / kTileKeys * kTileKeys,
                  p.pattern.keys_of(last_row - 1, pairs.real_keys).end};
  if (pairs.packed.begin > pairs.packed.end) pairs.packed.begin = pairs.packed.end;
  pack_transposed(b.packed_keys, p.k + pairs.packed.begin * p.dim, pairs.packed.size(), p.dim);
  pairs.key_norm = largest_key_norm(p, b.key_words);
  pairs.all_count = p.key_mask == nullptr && p.bits == nullptr && p.columns == nullptr &&
                    p.pattern.is_everything();
  return pairs;
}

/// A block of keys, and which of them rows want.
struct EntmaxBlock {
  int64_t first_key;
  int64_t count;
  bool all;
  uint32_t words[kMaxMicroRows][kBlockKeys / 32];

  Mask allowed(int64_t r, int64_t e) const {
    return all ? first_lanes(kWidth) : lanes_at(words[r], e);
  }
};

/// The edges of a row in CSR as bits, for blocks of that row alone.
inline void pack_row_words(const EntmaxProblem& p, const EntmaxScoreBuffers& b, int64_t i) {
  memset(b.row_words, 0, static_cast<size_t>(round_up(p.num_keys, kTileKeys) / 8));
  for (int64_t e = p.row_ptr[i]; e < p.row_ptr[i + 1]; ++e) {
    b.row_words[p.columns[e] / 32] |= 1u << (p.columns[e] % 32);
  }
}

inline void set_block_words(const EntmaxProblem& p, const EntmaxScoreBuffers& b,
                            const EntmaxPairs& pairs, const int64_t* number, int64_t rows,
                            EntmaxBlock& block) {
  block.all = pairs.all_count && block.count % kWidth == 0;
  if (block.all) return;
  const int64_t first = block.first_key / 32;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t w = 0; w < (block.count + 31) / 32; ++w) {
      const uint32_t edges =
          p.columns != nullptr ? b.row_words[first + w] : edge_word(p, number[r], first + w);
      block.words[r][w] = edges & b.key_words[first + w];
    }
    for (int64_t w = (block.count + 31) / 32; w < kBlockKeys / 32; ++w) block.words[r][w] = 0;
  }
}

/// Calls visit(block) for all keys that the rows may want, their products with the scaled queries of
/// the buffer in its tile.
template <class Visit>
inline void for_each_block(const EntmaxProblem& p, const EntmaxScoreBuffers& b,
                           const EntmaxPairs& pairs, const int64_t* number, int64_t rows,
                           const Visit& visit) {
  const int64_t begin = p.pattern.keys_of(number[0], pairs.real_keys).begin / kTileKeys * kTileKeys;
  const int64_t end = p.pattern.keys_of(number[rows - 1], pairs.real_keys).end;
  EntmaxBlock block;
  for (int64_t j = begin; j < end; j += kBlockKeys) {
    block.first_key = j;
    block.count = minimum(end - j, kBlockKeys);
    set_block_words(p, b, pairs, number, rows, block);
    multiply<false>(b.tile, kBlockKeys, {b.queries, p.dim, 1},
                    packed_panels(b.packed_keys, p.dim, j - pairs.packed.begin), rows,
                    round_up(block.count, kPanel), p.dim);
    visit(block);
  }
}

/// Streams of rows without anything yet; their scaled queries.
inline void begin_streams(const EntmaxProblem& p, const EntmaxScoreBuffers& b,
                          const EntmaxPairs& pairs, const int64_t* number, int64_t rows,
                          EntmaxStream* streams) {
  for (int64_t r = 0; r < rows; ++r) {
    float* query = b.queries + r * p.dim;
    scale_query(p, number[r], query);
    streams[r] = {.scores = b.scores + r * b.stride,
                  .columns = b.columns + r * b.stride,
                  .slack = score_slack(query, p.dim, pairs.key_norm)};
  }
}

inline constexpr int64_t kFewCandidates = 32;  ///< cheaper to score once more than to rule out

/// Candidates of rows, up to kMicroRows of them.
template <Power kPower>
inline void stream_rows(const EntmaxCurve<kPower>& curve, const EntmaxProblem& p,
                        const EntmaxScoreBuffers& b, const EntmaxPairs& pairs,
                        const int64_t* number, int64_t rows, EntmaxStream* streams) {
  begin_streams(p, b, pairs, number, rows, streams);
  bool started = false;
  for_each_block(p, b, pairs, number, rows, [&](const EntmaxBlock& block) {
    if (!started) {
      started = true;
      for (int64_t r = 0; r < rows; ++r) {
        lane_maxima(b.lanes + r * kMostLanes, b.tile + r * kBlockKeys, block.count,
                    [&](int64_t e) { return block.allowed(r, e); });
      }
      start_streams(curve, streams, rows, b.lanes);
      for (int64_t r = 0; r < rows; ++r) started &= streams[r].bound != -kEntmaxInfinity;
    }
    for (int64_t r = 0; r < rows; ++r) {
      stream_scores(streams[r], b.tile + r * kBlockKeys, block.first_key, block.count,
                    [&](int64_t e) { return block.allowed(r, e); });
    }
    tighten_streams(curve, streams, rows, [](const EntmaxStream& row) { return row.limit; });
  });
  tighten_streams(curve, streams, rows, [](const EntmaxStream&) { return kFewCandidates; });
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

/// Row i's edges in CSR to keys that count, scored, as list r.
inline EntmaxList edges_of_row(const EntmaxProblem& p, const EntmaxScoreBuffers& b, int64_t r,
                               int64_t i) {
  EntmaxList list = list_of(b, r, 0);
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

// --- of groups -----------------------------------------------------------------------------------

/// The keys of a group, as places in p.groups.keys.
inline Range keys_of_group(const EntmaxProblem& p, int64_t group) {
  return {p.groups.key_ptr[group], p.groups.key_ptr[group + 1]};
}

/// A group's keys, and how far apart rows are in its tiles.
struct GroupKeys {
  Range places;  ///< in p.groups.keys
  const uint32_t* columns;
  int64_t count;
  int64_t stride;
};

inline GroupKeys group_keys(const EntmaxProblem& p, Range places) {
  return {places, reinterpret_cast<const uint32_t*>(p.groups.keys) + places.begin, places.size(),
          round_up(places.size(), kWidth)};
}

/// How many rows of a group with so many keys fit into a tile.
inline int64_t rows_of_tile(int64_t num_keys) {
  return minimum(kGroupRows, kGroupTileFloats / round_up(num_keys + 1, kWidth));
}

/// Products of rows [count, D] with keys, as gather_scores makes them.
inline void multiply_group(float* out, int64_t stride, const float* rows, int64_t count,
                           const float* keys, int64_t dim, const uint32_t* columns,
                           int64_t num_keys) {
  constexpr int64_t kBlock = 32;
  for (int64_t first = 0; first < num_keys; first += kBlock) {
    for (int64_t r = 0; r < count; ++r) {
      gather_scores(out + r * stride + first, rows + r * dim, keys, dim, columns + first,
                    minimum(num_keys - first, kBlock), 1.0f);
    }
  }
}

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
