// SPDX-License-Identifier: Apache-2.0
// Vectorised attention forward. Three ways to the same numbers, by how many pairs are edges:
//   gathered   CSR: dot products of gathered keys, softmax and sum over the edges of a row.
//   compacted  bits: all scores by matrix products, of which only the edges' are kept, side by
//              side, so that exponentials and the sum over values cost per edge.
//   tiled      dense, or dense bits: online softmax over tiles, both products dense.
#pragma once

#include "kernels/cpu/attend/dropout_simd.h"

namespace stipple::kernels::cpu::STIPPLE_SIMD {

/// From this density on, a dense product with V costs less than a gathered one (d = 16, 32 and 64 on
/// a Sapphire Rapids: 0.38 to 0.45 of AVX-512, 0.55 to 0.61 of AVX2).
inline constexpr double kDenseFrom = kWidth == 16 ? 0.4 : 0.55;

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

inline float exp_of(float x) { return reduce_max(exp(splat(x))); }

/// The running softmax of a row: o holds sum e^(s - max) v.
struct RowSoftmax {
  float max = -kInfinity;
  float sum = 0.0f;

  /// Raises the maximum and returns what older terms must be multiplied with.
  float raise(float new_max) {
    if (new_max <= max) return 1.0f;
    const float factor = sum == 0.0f ? 1.0f : exp_of(max - new_max);
    max = new_max;
    sum *= factor;
    return factor;
  }
};

/// The largest of whole vectors of scores; -infinity only if all are: a NaN must not look like an
/// empty row.
inline float highest_score(const float* scores, int64_t count) {
  Floats highest = splat(-kInfinity);
  for (int64_t e = 0; e < count; e += kWidth) highest = max(highest, load(scores + e));
  const float result = reduce_max(highest);
  if (result != -kInfinity) return result;
  for (int64_t e = 0; e < count; ++e) {
    if (scores[e] != -kInfinity) return scores[e];
  }
  return -kInfinity;
}

inline void finish_row(const AttendProblem& p, int64_t i, const RowSoftmax& row) {
  float* o = p.o + i * p.dim;
  if (row.max == -kInfinity) {
    memset(o, 0, static_cast<size_t>(p.dim) * sizeof(float));
    p.lse[i] = -kInfinity;
    return;
  }
  scale_row(o, p.dim, p.dropout.rescale / row.sum);
  p.lse[i] = row.max + logf(row.sum);
}

/// Adds `count` edges with the given scores (overwritten; whole vectors must be writable) to row i.
/// keep(e): which of the kWidth edges from e on dropout leaves; asked once for each, in order, and
/// before the columns are read.
template <class Keep>
inline void add_edges(const AttendProblem& p, int64_t i, RowSoftmax& row, float* scores,
                      const uint32_t* columns, const uint16_t* multiplicity, int64_t count,
                      const Keep& keep) {
  if (count == 0) return;
  store(scores + count, splat(-kInfinity));
  const float new_max = highest_score(scores, count);
  if (new_max == -kInfinity) return;
  float* o = p.o + i * p.dim;
  const float factor = row.raise(new_max);
  if (factor != 1.0f) scale_row(o, p.dim, factor);

  const Floats shift = splat(row.max);
  Floats sum = splat(0.0f);
  for (int64_t e = 0; e < count; e += kWidth) {
    Floats weight = exp(load(scores + e) - shift);
    if (multiplicity != nullptr) {
      const Words drawn = load_u16(multiplicity + e);
      weight = select(first_lanes(count - e), weight * to_floats(drawn), splat(0.0f));
    }
    sum = sum + weight;
    if (p.dropout.on) weight = select(keep(e), weight, splat(0.0f));
    store(scores + e, weight);
  }
  row.sum += reduce_add(sum);
  accumulate_rows(o, {scores, columns, count}, p.v, p.dim);
}

inline void clear_rows(float* rows, int64_t count, int64_t width) {
  memset(rows, 0, static_cast<size_t>(count * width) * sizeof(float));
}

// --- gathered ------------------------------------------------------------------------------------

inline void mask_scores(float* scores, const uint32_t* columns, int64_t count,
                        const uint32_t* key_words) {
  for (int64_t e = 0; e < count; e += kWidth) {
    const Words j = load(columns + e, first_lanes(count - e));
    store(scores + e, select(key_counts(key_words, j), load(scores + e), splat(-kInfinity)));
  }
}

inline void forward_gathered(const AttendProblem& p, const ForwardBuffers& b, int64_t first_row,
                             int64_t last_row) {
  if (p.key_mask != nullptr) pack_key_mask(b.key_words, p);
  clear_rows(p.o + first_row * p.dim, last_row - first_row, p.dim);
  for (int64_t i = first_row; i < last_row; ++i) {
    RowSoftmax row;
    for (int64_t e = p.row_ptr[i]; e < p.row_ptr[i + 1]; e += kSweepKeys) {
      const int64_t count = minimum(p.row_ptr[i + 1] - e, kSweepKeys);
      const uint32_t* columns = p.columns + e;
      gather_scores(b.scores, p.q + i * p.dim, p.k, p.dim, columns, count, p.scale);
      if (p.key_mask != nullptr) mask_scores(b.scores, columns, count, b.key_words);
      const uint16_t* multiplicity = nullptr;
      uint16_t drawn[kSweepKeys + kMaxLanes];
      if (p.multiplicity != nullptr) {
        memcpy(drawn, p.multiplicity + e, static_cast<size_t>(count) * sizeof(uint16_t));
        multiplicity = drawn;
      }
      add_edges(p, i, row, b.scores, columns, multiplicity, count, [&](int64_t x) {
        const Mask kept = keeps(p.dropout, i, load(columns + x, first_lanes(count - x)));
        if (p.kept != nullptr) store_lanes(kept_row(p, i), e - p.row_ptr[i] + x, kept);
        return kept;
      });
    }
    finish_row(p, i, row);
  }
}

// --- compacted -----------------------------------------------------------------------------------

/// Appends the edges among kBlockKeys scores of row i; returns the new count.
inline int64_t compact_scores(const AttendProblem& p, int64_t i, int64_t first_key, int64_t keys,
                              const float* tile, const uint32_t* key_words, float* scores,
                              uint32_t* columns, int64_t count) {
  const Floats scale = splat(p.scale);
  const uint32_t* kept = p.kept == nullptr ? nullptr : kept_row(p, i);
  for (int64_t word = first_key / 32; word < (first_key + keys + 31) / 32; ++word) {
    const uint32_t edges = edge_word(p, i, word) & key_words[word];
    const uint32_t dropped = dropped_word(kept, word);
    for (int x = 0; x < 32; x += kWidth) {
      const Mask lanes = word_lanes(edges, x);
      const int64_t j = word * 32 + x;
      compress_store(columns + count, marked_columns(j, word_lanes(dropped, x)), lanes);
      count += compress_store(scores + count, load(tile + j - first_key) * scale, lanes);
    }
  }
  return count;
}

/// Which of the edges with these columns, kWidth of them, keep their weight; takes their marks off.
inline Mask take_marks(const AttendProblem& p, int64_t i, uint32_t* columns) {
  const Words marked = load(columns);
  if (p.kept == nullptr) return keeps(p.dropout, i, marked);
  store(columns, without_mark(marked));
  return is_unmarked(marked);
}

inline void forward_compacted(const AttendProblem& p, const ForwardBuffers& b, int64_t first_row,
                              int64_t last_row) {
  const int64_t keys = pack_key_mask(b.key_words, p);
  constexpr int64_t kStride = kSweepKeys + kMaxLanes;
  pack_transposed(b.packed_keys, p.k, keys, p.dim);
  clear_rows(p.o + first_row * p.dim, last_row - first_row, p.dim);
  for (int64_t i = first_row; i < last_row; i += kMicroRows) {
    const int64_t rows = minimum(last_row - i, kMicroRows);
    RowSoftmax softmax[kMicroRows];
    for (int64_t sweep = 0; sweep < keys; sweep += kSweepKeys) {
      const int64_t sweep_end = minimum(keys, sweep + kSweepKeys);
      int64_t count[kMicroRows] = {};
      if (p.kept != nullptr) {
        for (int64_t r = 0; r < rows; ++r) decide_edges(p, i + r, sweep, sweep_end - sweep);
      }
      for (int64_t j = sweep; j < sweep_end; j += kBlockKeys) {
        const int64_t block = minimum(sweep_end - j, kBlockKeys);
        multiply<false>(b.tile, kBlockKeys, {p.q + i * p.dim, p.dim, 1},
                        packed_panels(b.packed_keys, p.dim, j), rows, round_up(block, kPanel),
                        p.dim);
        for (int64_t r = 0; r < rows; ++r) {
          count[r] = compact_scores(p, i + r, j, block, b.tile + r * kBlockKeys, b.key_words,
                                    b.scores + r * kStride, b.columns + r * kStride, count[r]);
        }
      }
      for (int64_t r = 0; r < rows; ++r) {
        uint32_t* columns = b.columns + r * kStride;
        add_edges(p, i + r, softmax[r], b.scores + r * kStride, columns, nullptr, count[r],
                  [&](int64_t e) { return take_marks(p, i + r, columns + e); });
      }
    }
    for (int64_t r = 0; r < rows; ++r) finish_row(p, i + r, softmax[r]);
  }
}

// --- tiled ---------------------------------------------------------------------------------------

/// Turns row i's products with kTileKeys keys into weights, in place; o is rescaled to match.
inline void soften_tile_row(const AttendProblem& p, int64_t i, int64_t first_key, float* tile,
                            const uint32_t* key_words, RowSoftmax& row) {
  uint32_t edges[kTileKeys / 32];
  for (int64_t word = 0; word < kTileKeys / 32; ++word) {
    edges[word] = edge_word(p, i, first_key / 32 + word) & key_words[first_key / 32 + word];
  }
  for (int64_t x = 0; x < kTileKeys; x += kWidth) {
    store(tile + x, select(lanes_at(edges, x), load(tile + x) * splat(p.scale), splat(-kInfinity)));
  }
  const float new_max = highest_score(tile, kTileKeys);
  if (new_max == -kInfinity) {
    memset(tile, 0, kTileKeys * sizeof(float));
    return;
  }
  const float factor = row.raise(new_max);
  if (factor != 1.0f) scale_row(p.o + i * p.dim, p.dim, factor);
  uint32_t kept[kTileKeys / 32];
  decide_tile(p, i, first_key, kept);
  Floats sum = splat(0.0f);
  for (int64_t x = 0; x < kTileKeys; x += kWidth) {
    const Floats weight = exp(load(tile + x) - splat(row.max));
    sum = sum + weight;
    store(tile + x, select(lanes_at(kept, x), weight, splat(0.0f)));
  }
  row.sum += reduce_add(sum);
}

/// The keys, in whole tiles at the front, that rows [first_row, last_row) may want.
inline Range keys_of_rows(const AttendProblem& p, int64_t first_row, int64_t last_row,
                          int64_t real_keys) {
  const int64_t begin = p.pattern.keys_of(first_row, real_keys).begin / kTileKeys * kTileKeys;
  return {begin, p.pattern.keys_of(last_row - 1, real_keys).end};
}

inline void forward_tiled(const AttendProblem& p, const ForwardBuffers& b, int64_t first_row,
                          int64_t last_row) {
  const int64_t real_keys = pack_key_mask(b.key_words, p);
  const Range packed = keys_of_rows(p, first_row, last_row, real_keys);
  pack_transposed(b.packed_keys, p.k + packed.begin * p.dim, packed.end - packed.begin, p.dim);
  clear_rows(p.o + first_row * p.dim, last_row - first_row, p.dim);
  for (int64_t i = first_row; i < last_row; i += kTileRows) {
    const int64_t rows = minimum(last_row - i, kTileRows);
    RowSoftmax softmax[kTileRows];
    const Range keys = keys_of_rows(p, i, i + rows, real_keys);
    for (int64_t j = keys.begin; j < keys.end; j += kTileKeys) {
      if (!has_pairs(p, i, rows, j)) continue;
      multiply<false>(b.tile, kTileKeys, {p.q + i * p.dim, p.dim, 1},
                      packed_panels(b.packed_keys, p.dim, j - packed.begin), rows, kTileKeys,
                      p.dim);
      for (int64_t r = 0; r < rows; ++r) {
        soften_tile_row(p, i + r, j, b.tile + r * kTileKeys, b.key_words, softmax[r]);
      }
      multiply<true>(p.o + i * p.dim, p.dim, {b.tile, kTileKeys, 1},
                     row_major(p.v + j * p.dim, p.dim), rows, p.dim,
                     minimum(keys.end - j, kTileKeys));
    }
    for (int64_t r = 0; r < rows; ++r) finish_row(p, i + r, softmax[r]);
  }
}

inline void forward(const AttendProblem& p, const ForwardBuffers& b, int64_t first_row,
                    int64_t last_row) {
  if (p.columns != nullptr) {
    forward_gathered(p, b, first_row, last_row);
  } else if (p.bits != nullptr && density(p) < kDenseFrom) {
    forward_compacted(p, b, first_row, last_row);
  } else {
    forward_tiled(p, b, first_row, last_row);
  }
}

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
