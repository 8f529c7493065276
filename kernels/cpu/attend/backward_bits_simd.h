// SPDX-License-Identifier: Apache-2.0
// Attention backward over bits. Tiles of 64 queries and 64 keys: scores, dA and the gradients of all
// pairs are dense, the seven sums over edges walk the set bits of a word: by query over the tile's
// keys, by key over its queries. What they gather, z, k, y, q and dout of a tile, lies in the
// first-level cache, and nothing is sorted.
#pragma once

#include "kernels/cpu/attend/gradient_simd.h"

namespace stipple::kernels::cpu::STIPPLE_SIMD {

static_assert(kBitTile == 64);

/// Between rows of a tile: an odd number of cache lines, so that a column lies in as many sets.
inline constexpr int64_t kBitStride = kBitTile + 16;
static_assert(kBitTile * kBitStride <= kTileFloats);

// --- scores --------------------------------------------------------------------------------------

/// Up to kBitTile rows as panels of kMicroRows, zeros behind them: element (r, t) is
/// packed[(r / kMicroRows * depth + t) * kMicroRows + r % kMicroRows].
inline void pack_left(float* packed, const float* rows, int64_t count, int64_t depth) {
  for (int64_t r = 0; r < kBitTile; ++r) {
    float* panel = packed + r / kMicroRows * kMicroRows * depth + r % kMicroRows;
    for (int64_t t = 0; t < depth; ++t) panel[t * kMicroRows] = r < count ? rows[r * depth + t] : 0;
  }
}

/// tile [kBitTile, kBitStride] = a b, a from pack_left, b in panels of columns.
inline void multiply_tile(float* tile, const float* a, RightFactor b, int64_t rows, int64_t depth) {
  for (int64_t column = 0; column < kBitTile; column += kPanel) {
    const float* right = b.data + column / kPanel * b.panel_stride;
    for (int64_t row = 0; row < rows; row += kMicroRows) {
      const float* left = a + row * depth;
      Floats sum[kMicroRows][2];
#pragma GCC unroll 8
      for (int r = 0; r < kMicroRows; ++r) sum[r][0] = sum[r][1] = splat(0.0f);
      for (int64_t t = 0; t < depth; ++t) {
        const Floats first = load(right + t * kPanel);
        const Floats second = load(right + t * kPanel + kWidth);
#pragma GCC unroll 8
        for (int r = 0; r < kMicroRows; ++r) {
          const Floats x = splat(left[t * kMicroRows + r]);
          sum[r][0] = fma(x, first, sum[r][0]);
          sum[r][1] = fma(x, second, sum[r][1]);
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < kMicroRows; ++r) {
        float* out = tile + (row + r) * kBitStride + column;
        store(out, sum[r][0]);
        store(out + kWidth, sum[r][1]);
      }
    }
  }
}

// --- sums over set bits --------------------------------------------------------------------------

/// out[0 ... width) += sum over edges e of weights[e * step] times row e of rows [*, width].
struct EdgeSum {
  float* out;
  const float* weights;
  const float* rows;
  int64_t width;
};

template <int kVecs>
inline void load_sum(Floats (&sum)[8], const EdgeSum& s) {
#pragma GCC unroll 8
  for (int x = 0; x < kVecs; ++x) sum[x] = load(s.out + x * kWidth);
}
template <int kVecs>
inline void store_sum(const Floats (&sum)[8], const EdgeSum& s) {
#pragma GCC unroll 8
  for (int x = 0; x < kVecs; ++x) store(s.out + x * kWidth, sum[x]);
}
template <int kVecs, int64_t kStep>
inline void add_edge(Floats (&sum)[8], const EdgeSum& s, int64_t e) {
  if constexpr (kVecs > 0) {
    const Floats weight = splat(s.weights[e * kStep]);
    const float* row = s.rows + e * s.width;
#pragma GCC unroll 8
    for (int x = 0; x < kVecs; ++x) sum[x] = fma(weight, load(row + x * kWidth), sum[x]);
  }
}

/// Three sums of kA, kB and kC vectors over the same edges, the set bits: one walk for all.
template <int kA, int kB, int kC, int64_t kStep>
inline void sum_together(uint64_t edges, const EdgeSum& a, const EdgeSum& b, const EdgeSum& c) {
  Floats sum_a[8], sum_b[8], sum_c[8];
  load_sum<kA>(sum_a, a);
  load_sum<kB>(sum_b, b);
  load_sum<kC>(sum_c, c);
  for (uint64_t rest = edges; rest != 0; rest &= rest - 1) {
    const int64_t e = __builtin_ctzll(rest);
    add_edge<kA, kStep>(sum_a, a, e);
    add_edge<kB, kStep>(sum_b, b, e);
    add_edge<kC, kStep>(sum_c, c, e);
  }
  store_sum<kA>(sum_a, a);
  store_sum<kB>(sum_b, b);
  store_sum<kC>(sum_c, c);
}

/// The vector of a sum with fewer columns than it has lanes.
template <int64_t kStep>
inline void sum_last(uint64_t edges, const EdgeSum& s, int64_t columns) {
  const Mask lanes = first_lanes(columns);
  Floats sum = load(s.out, lanes);
  for (uint64_t rest = edges; rest != 0; rest &= rest - 1) {
    const int64_t e = __builtin_ctzll(rest);
    sum = fma(splat(s.weights[e * kStep]), load(s.rows + e * s.width, lanes), sum);
  }
  store(s.out, sum, lanes);
}

/// A sum from column `x` on.
template <int64_t kStep>
inline void sum_alone(uint64_t edges, const EdgeSum& whole, int64_t x) {
  const auto from = [&](int64_t column) {
    return EdgeSum{whole.out + column, whole.weights, whole.rows + column, whole.width};
  };
  const EdgeSum none{};
  for (; x + 8 * kWidth <= whole.width; x += 8 * kWidth) {
    sum_together<8, 0, 0, kStep>(edges, from(x), none, none);
  }
  for (; x + 2 * kWidth <= whole.width; x += 2 * kWidth) {
    sum_together<2, 0, 0, kStep>(edges, from(x), none, none);
  }
  if (x + kWidth <= whole.width) {
    sum_together<1, 0, 0, kStep>(edges, from(x), none, none);
    x += kWidth;
  }
  if (x < whole.width) sum_last<kStep>(edges, from(x), whole.width - x);
}

/// sum_edges by kWide vectors of the wide sum, all there are or the first eight; false: not for these
/// widths, nothing is done.
template <int kWide, bool kTwo, int64_t kStep>
inline bool sum_all_together(uint64_t edges, const EdgeSum& wide, const EdgeSum& first,
                             const EdgeSum& second) {
  switch (first.width) {
    case kWidth:
      sum_together<kWide, 1, kTwo ? 1 : 0, kStep>(edges, wide, first, second);
      return true;
    case 2 * kWidth:
      sum_together<kWide, 2, kTwo ? 2 : 0, kStep>(edges, wide, first, second);
      return true;
    case 4 * kWidth:
      sum_together<kWide, 4, kTwo ? 4 : 0, kStep>(edges, wide, first, second);
      return true;
    default:
      return false;
  }
}

/// A wide sum and one or two narrow ones, which are equally wide. Every sum's terms are added in the
/// order of the edges, whichever are walked together.
template <bool kTwo, int64_t kStep>
inline void sum_edges(uint64_t edges, const EdgeSum& wide, const EdgeSum& first,
                      const EdgeSum& second) {
  int64_t done = 0;  ///< columns of the wide sum
  bool together = false;
  if constexpr (kWidth == 16) {  // 16 registers are too few for several sums
    if (wide.width >= 8 * kWidth) {
      together = sum_all_together<8, kTwo, kStep>(edges, wide, first, second);
      done = together ? 8 * kWidth : 0;
    } else if (wide.width == 4 * kWidth) {
      together = sum_all_together<4, kTwo, kStep>(edges, wide, first, second);
      done = together ? 4 * kWidth : 0;
    } else if (wide.width == 2 * kWidth) {
      together = sum_all_together<2, kTwo, kStep>(edges, wide, first, second);
      done = together ? 2 * kWidth : 0;
    } else if (wide.width == 0) {
      together = sum_all_together<0, kTwo, kStep>(edges, wide, first, second);
    }
  }
  if (!together) {
    sum_alone<kStep>(edges, first, 0);
    if (kTwo) sum_alone<kStep>(edges, second, 0);
  }
  if (done < wide.width) sum_alone<kStep>(edges, wide, done);
}

// --- tiles ---------------------------------------------------------------------------------------

/// Bit r of word c becomes bit c of word r.
inline void transpose_bits(uint64_t (&words)[64]) {
  uint64_t low = 0x00000000FFFFFFFFull;
  for (int half = 32; half > 0; half /= 2, low ^= low << half) {
    for (int first = 0; first < 64; first += 2 * half) {
      for (int k = first; k < first + half; ++k) {
        const uint64_t moved = (words[k] >> half ^ words[k + half]) & low;
        words[k] ^= moved << half;
        words[k + half] ^= moved;
      }
    }
  }
}

/// Words `word` and the next of a row of `count`; zeros behind it.
inline uint64_t word_pair(const uint32_t* row, int64_t word, int64_t count) {
  const uint64_t high = word + 1 < count ? row[word + 1] : 0u;
  return high << 32 | row[word];
}

/// Row r of the tile from key `first` on: products in tiles 0 and 1 become scale ds and W r; dp goes
/// to tile 2. Pairs that are no edges get numbers that nobody reads.
inline void differentiate_bits(const AttendProblem& p, const BackwardBuffers& b,
                               const RowConstants& row, uint64_t edges, int64_t r, int64_t first) {
  constexpr uint64_t kLanes = (1u << kWidth) - 1;
  float* scores = b.tiles[0] + r * kBitStride;
  float* dweights = b.tiles[1] + r * kBitStride;
  float* dp = b.tiles[2] + r * kBitStride;
  uint32_t kept[2];
  recall_pairs(p, row.i, first, kept);
  for (int64_t x = 0; x < kBitTile; x += kWidth) {
    if ((edges >> x & kLanes) == 0) continue;
    const PairGradient g =
        pair_gradient(p, row, iota() + splat_words(static_cast<uint32_t>(first + x)),
                      load(scores + x) * splat(p.scale), load(dweights + x), splat(1.0f),
                      lanes_at(b.key_words + first / 32, x), lanes_at(kept, x));
    store(scores + x, g.dscore);
    store(dweights + x, g.weight);
    store(dp + x, g.dp);
  }
}

/// Rows [i, i + rows) against the keys [j, j + kBitTile): adds to all gradients.
inline void backward_bit_tile(const AttendProblem& p, const BackwardBuffers& b,
                              const RowConstants* constants, int64_t i, int64_t rows, int64_t j) {
  uint64_t edges[kBitTile] = {};
  uint64_t any = 0;
  for (int64_t r = 0; r < rows; ++r) {
    edges[r] = word_pair(p.bits + (i + r) * p.words_per_row, j / 32, p.words_per_row);
    any |= edges[r];
  }
  if (any == 0) return;
  multiply_tile(b.tiles[0], b.packed_queries, packed_panels(b.packed_keys, p.dim, j), rows, p.dim);
  multiply_tile(b.tiles[1], b.packed_douts, packed_panels(b.packed_values, p.dim, j), rows, p.dim);
  const int64_t d = p.dim;
  const int64_t k = p.clusters;
  for (int64_t r = 0; r < rows; ++r) {
    if (edges[r] == 0) continue;
    differentiate_bits(p, b, constants[r], edges[r], r, j);
    const int64_t at = r * kBitStride;
    sum_edges<false, 1>(edges[r], {p.row_grad + (i + r) * k, b.tiles[2] + at, p.z + j * k, k},
                        {p.dq + (i + r) * d, b.tiles[0] + at, p.k + j * d, d}, {});
  }
  transpose_bits(edges);
  for (int64_t c = 0; c < minimum(p.num_keys - j, kBitTile); ++c) {
    if (edges[c] == 0) continue;
    sum_edges<true, kBitStride>(edges[c],
                                {p.column_grad + (j + c) * k, b.tiles[2] + c, p.y + i * k, k},
                                {p.dk + (j + c) * d, b.tiles[0] + c, p.q + i * d, d},
                                {p.dv + (j + c) * d, b.tiles[1] + c, p.dout + i * d, d});
  }
}

inline void backward_bits(const AttendProblem& p, const BackwardBuffers& b) {
  pack_key_mask(b.key_words, p);
  pack_transposed(b.packed_keys, p.k, p.num_keys, p.dim);
  pack_transposed(b.packed_values, p.v, p.num_keys, p.dim);
  for (int64_t i = 0; i < p.num_queries; i += kBitTile) {
    const int64_t rows = minimum(p.num_queries - i, kBitTile);
    pack_left(b.packed_queries, p.q + i * p.dim, rows, p.dim);
    pack_left(b.packed_douts, p.dout + i * p.dim, rows, p.dim);
    RowConstants constants[kBitTile];
    for (int64_t r = 0; r < rows; ++r) constants[r] = row_constants(p, i + r);
    for (int64_t j = 0; j < p.num_keys; j += kBitTile) {
      backward_bit_tile(p, b, constants, i, rows, j);
    }
  }
}

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
