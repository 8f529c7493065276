// SPDX-License-Identifier: Apache-2.0
// Vectorised attention backward of a problem, or of a part of one: every gradient has one owner, who
// adds its terms in the same order whatever the part. Three ways, of which instruction set, shape and
// density decide, so that every rank and thread takes the same:
//   by edges  CSR (backward_edges_simd.h): sums in registers over gathered rows, by query, then by
//             key. None scatters.
//   by bits   bits up to densest_by_bits (backward_bits_simd.h): scores dense, sums over set bits.
//   tiled     dense, or denser bits: the same as seven products of tiles.
#pragma once

#include "kernels/cpu/attend/backward_bits_simd.h"
#include "kernels/cpu/attend/backward_edges_simd.h"

namespace stipple::kernels::cpu::STIPPLE_SIMD {

/// The density at which the walk over set bits costs what tiles do. Costs in multiply-adds of a
/// vector, fitted on a Sapphire Rapids to d of 16, 32 and 64 and k of 0, 32, 64 and 128, AVX-512 and
/// AVX2 (bench_attention 'backward/bits/d:.*/N:1024'): for a pair tiles spend the columns of its five
/// or seven products, 3 d + 2 k of them more than bits, and bits for an edge kEdge and those columns
/// at kTogether or, where they are too many or too odd to be summed in one walk over 32 registers, at
/// kApart.
inline double densest_by_bits(const AttendProblem& p) {
  constexpr double kEdge = 9.0;
  constexpr double kTogether = 1.45;
  constexpr double kApart = 2.2;
  const bool together =
      kWidth == 8 || (p.clusters <= 8 * kWidth && p.dim <= 4 * kWidth && p.dim % kWidth == 0);
  const double vectors = static_cast<double>(3 * p.dim + 2 * p.clusters) / kWidth;
  return vectors / (kEdge + (together ? kTogether : kApart) * vectors);
}

// --- tiled ---------------------------------------------------------------------------------------

/// Row i against kTileKeys keys: products in tiles 0 and 1 become scale ds and W r; dp goes to
/// tile 2.
inline void differentiate_tile_row(const AttendProblem& p, const BackwardBuffers& b, int64_t i,
                                   int64_t r, int64_t first_key) {
  const RowConstants row = row_constants(p, i);
  float* scores = b.tiles[0] + r * kTileKeys;
  float* dweights = b.tiles[1] + r * kTileKeys;
  float* dp = b.tiles[2] + r * kTileKeys;
  uint32_t edges[kTileKeys / 32];
  for (int64_t w = 0; w < kTileKeys / 32; ++w) edges[w] = edge_word(p, i, first_key / 32 + w);
  const uint32_t* counts = b.key_words + first_key / 32;
  uint32_t kept[kTileKeys / 32];
  recall_tile(p, i, first_key, kept);
  for (int64_t x = 0; x < kTileKeys; x += kWidth) {
    const Mask lanes = lanes_at(edges, x);
    const PairGradient g =
        pair_gradient(p, row, iota() + splat_words(static_cast<uint32_t>(first_key + x)),
                      load(scores + x) * splat(p.scale), load(dweights + x), splat(1.0f),
                      lanes & lanes_at(counts, x), lanes_at(kept, x));
    store(scores + x, g.dscore);
    store(dweights + x, g.weight);
    store(dp + x, select(lanes, g.dp, splat(0.0f)));
  }
}

/// A tile's sums over keys.
inline void add_by_query(const AttendProblem& p, const BackwardBuffers& b, int64_t i, int64_t rows,
                         int64_t j, int64_t keys) {
  multiply<true>(p.dq + i * p.dim, p.dim, {b.tiles[0], kTileKeys, 1},
                 row_major(p.k + j * p.dim, p.dim), rows, p.dim, keys);
  if (p.clusters == 0) return;
  multiply<true>(p.row_grad + i * p.clusters, p.clusters, {b.tiles[2], kTileKeys, 1},
                 row_major(p.z + j * p.clusters, p.clusters), rows, p.clusters, keys);
}

/// Its sums over queries.
inline void add_by_key(const AttendProblem& p, const BackwardBuffers& b, int64_t i, int64_t rows,
                       int64_t j, int64_t keys) {
  multiply<true>(p.dk + j * p.dim, p.dim, {b.tiles[0], 1, kTileKeys},
                 row_major(p.q + i * p.dim, p.dim), keys, p.dim, rows);
  multiply<true>(p.dv + j * p.dim, p.dim, {b.tiles[1], 1, kTileKeys},
                 row_major(p.dout + i * p.dim, p.dim), keys, p.dim, rows);
  if (p.clusters == 0) return;
  multiply<true>(p.column_grad + j * p.clusters, p.clusters, {b.tiles[2], 1, kTileKeys},
                 row_major(p.y + i * p.clusters, p.clusters), keys, p.clusters, rows);
}

inline Range common(Range a, Range b) {
  const int64_t begin = a.begin > b.begin ? a.begin : b.begin;
  return {begin, minimum(a.end, b.end)};
}

inline void backward_tiled(const AttendProblem& p, const BackwardBuffers& b,
                           const BackwardPart& part) {
  // Without straight-through gradient, keys after the last real one contribute nothing.
  const int64_t real_keys = pack_key_mask(b.key_words, p);
  const int64_t all_keys = p.clusters > 0 ? p.num_keys : real_keys;
  pack_transposed(b.packed_keys, p.k, all_keys, p.dim);
  pack_transposed(b.packed_values, p.v, all_keys, p.dim);
  for (int64_t j = part.keys.begin; j < minimum(part.keys.end, all_keys); j += kTileKeys) {
    const int64_t keys = minimum(all_keys - j, kTileKeys);
    const Range wanted = {p.pattern.queries_of(j, p.num_queries).begin,
                          p.pattern.queries_of(j + keys - 1, p.num_queries).end};
    const Range queries = common(wanted, part.queries);
    for (int64_t i = queries.begin / kTileRows * kTileRows; i < queries.end; i += kTileRows) {
      const int64_t rows = minimum(p.num_queries - i, kTileRows);
      if (!has_pairs(p, i, rows, j)) continue;
      const int64_t at = i * p.dim;
      multiply<false>(b.tiles[0], kTileKeys, {p.q + at, p.dim, 1},
                      packed_panels(b.packed_keys, p.dim, j), rows, kTileKeys, p.dim);
      multiply<false>(b.tiles[1], kTileKeys, {p.dout + at, p.dim, 1},
                      packed_panels(b.packed_values, p.dim, j), rows, kTileKeys, p.dim);
      for (int64_t r = 0; r < rows; ++r) differentiate_tile_row(p, b, i + r, r, j);
      if (part.by_query) add_by_query(p, b, i, rows, j, keys);
      if (part.by_key) add_by_key(p, b, i, rows, j, keys);
    }
  }
}

/// Clears the gradients of a part and adds its terms.
inline void backward(const AttendProblem& p, const BackwardBuffers& b, const BackwardPart& part) {
  const auto clear = [](float* gradient, Range rows, int64_t width) {
    memset(gradient + rows.begin * width, 0,
           static_cast<size_t>((rows.end - rows.begin) * width) * sizeof(float));
  };
  if (part.by_query) {
    clear(p.dq, part.queries, p.dim);
    if (p.clusters > 0) clear(p.row_grad, part.queries, p.clusters);
  }
  if (part.by_key) {
    clear(p.dk, part.keys, p.dim);
    clear(p.dv, part.keys, p.dim);
    if (p.clusters > 0) clear(p.column_grad, part.keys, p.clusters);
  }
  if (p.columns != nullptr) {
    backward_by_edges(p, b, part);
  } else if (p.bits != nullptr && density(p) < densest_by_bits(p)) {
    backward_bits(p, b, part);
  } else {
    backward_tiled(p, b, part);
  }
}

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
