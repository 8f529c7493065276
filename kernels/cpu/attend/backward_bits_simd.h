// SPDX-License-Identifier: Apache-2.0
// Attention backward over bits. Tiles of 64 queries and 64 keys: scores, dA and the gradients of all
// pairs are dense, the seven sums over edges walk the set bits of a word: by query over the tile's
// keys, by key over its queries. What they gather, z, k, y, q and dout of a tile, lies in the
// first-level cache, and nothing is sorted.
#pragma once

#include "kernels/cpu/attend/edge_sums_simd.h"
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

/// Rows [i, i + rows) against the keys [j, j + kBitTile): adds to the gradients of the part.
inline void backward_bit_tile(const AttendProblem& p, const BackwardBuffers& b,
                              const BackwardPart& part, const RowConstants* constants, int64_t i,
                              int64_t rows, int64_t j) {
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
    if (!part.by_query) continue;
    const int64_t at = r * kBitStride;
    sum_edges<false>(SetBits<1>{edges[r]},
                     {p.row_grad + (i + r) * k, b.tiles[2] + at, p.z + j * k, k},
                     {p.dq + (i + r) * d, b.tiles[0] + at, p.k + j * d, d}, {});
  }
  if (!part.by_key) return;
  transpose_bits(edges);
  for (int64_t c = 0; c < minimum(p.num_keys - j, kBitTile); ++c) {
    if (edges[c] == 0) continue;
    sum_edges<true>(SetBits<kBitStride>{edges[c]},
                    {p.column_grad + (j + c) * k, b.tiles[2] + c, p.y + i * k, k},
                    {p.dk + (j + c) * d, b.tiles[0] + c, p.q + i * d, d},
                    {p.dv + (j + c) * d, b.tiles[1] + c, p.dout + i * d, d});
  }
}

inline void backward_bits(const AttendProblem& p, const BackwardBuffers& b,
                          const BackwardPart& part) {
  pack_key_mask(b.key_words, p);
  pack_transposed(b.packed_keys, p.k, p.num_keys, p.dim);
  pack_transposed(b.packed_values, p.v, p.num_keys, p.dim);
  for (int64_t i = part.queries.begin; i < part.queries.end; i += kBitTile) {
    const int64_t rows = minimum(p.num_queries - i, kBitTile);
    pack_left(b.packed_queries, p.q + i * p.dim, rows, p.dim);
    pack_left(b.packed_douts, p.dout + i * p.dim, rows, p.dim);
    RowConstants constants[kBitTile];
    for (int64_t r = 0; r < rows; ++r) constants[r] = row_constants(p, i + r);
    for (int64_t j = part.keys.begin; j < part.keys.end; j += kBitTile) {
      backward_bit_tile(p, b, part, constants, i, rows, j);
    }
  }
}

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
