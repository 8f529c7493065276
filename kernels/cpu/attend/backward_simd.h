// SPDX-License-Identifier: Apache-2.0
// Vectorised attention backward, one problem at a time, so that dk, dv and column_grad have one
// owner. Three ways, of which instruction set, shape and density decide, so that every rank and
// thread takes the same:
//   by edges  CSR. For a chunk of rows: recompute the scores and dA of its edges, sum dq and
//             row_grad, regroup the edges by key with a counting sort, sum dk, dv and column_grad.
//             Sums run in registers over gathered rows, none scatters.
//   by bits   bits up to densest_by_bits (backward_bits_simd.h): scores dense, sums over set bits.
//   tiled     dense, or denser bits: the same as seven products of tiles.
#pragma once

#include "kernels/cpu/attend/backward_bits_simd.h"

namespace stipple::kernels::cpu::STIPPLE_SIMD {

/// The density at which the walk over set bits costs what tiles do. Costs in multiply-adds of a
/// vector per pair, set by bench_attention 'backward/bits' on one Sapphire Rapids so that d = 32,
/// k = 128 crosses at its measured half; other shapes may turn to tiles somewhat early. Tiles take 5 d + 2 k columns a pair; bits 2 d columns and kPair a pair, and for
/// an edge kEdge and the other 3 d + 2 k, at kTogether or, where they are too many or too odd to be
/// summed in one walk over 32 registers, at kApart.
inline double densest_by_bits(const AttendProblem& p) {
  constexpr double kPair = 4.0;
  constexpr double kEdge = 4.0;
  constexpr double kTogether = 1.45;
  constexpr double kApart = 2.2;
  const bool together =
      kWidth == 8 || (p.clusters <= 8 * kWidth && p.dim <= 4 * kWidth && p.dim % kWidth == 0);
  const double vectors = static_cast<double>(3 * p.dim + 2 * p.clusters) / kWidth;
  return (vectors - kPair) / (kEdge + (together ? kTogether : kApart) * vectors);
}

// --- by edges ------------------------------------------------------------------------------------

/// Scores and dA of one CSR row.
inline void score_csr_row(const AttendProblem& p, const BackwardBuffers& b, int64_t i) {
  const int64_t first = p.row_ptr[i];
  const int64_t count = p.row_ptr[i + 1] - first;
  gather_scores(b.scores, p.q + i * p.dim, p.k, p.dim, p.columns + first, count, p.scale);
  gather_scores(b.dweights, p.dout + i * p.dim, p.v, p.dim, p.columns + first, count, 1.0f);
}

/// Gradients of row i's edges from their scores and dA; sums dq.
inline void differentiate_row(const AttendProblem& p, const BackwardBuffers& b, int64_t i,
                              EdgeGradient* out) {
  const int64_t count = p.row_ptr[i + 1] - p.row_ptr[i];
  const uint32_t* columns = p.columns + p.row_ptr[i];
  const RowConstants row = row_constants(p, i);
  const Mask all = first_lanes(kWidth);
  for (int64_t e = 0; e < count; e += kWidth) {
    const Mask lanes = first_lanes(count - e);
    const Words j = load(columns + e, lanes);
    const Mask counts = p.key_mask == nullptr ? all : key_counts(b.key_words, j);
    const Mask keep = p.dropout.on ? recall_edges(p, i, j, e) : all;
    Floats drawn = splat(1.0f);
    if (p.multiplicity != nullptr) {
      uint16_t list[kWidth] = {};
      memcpy(list, p.multiplicity + p.row_ptr[i] + e,
             static_cast<size_t>(minimum(count - e, kWidth)) * sizeof(uint16_t));
      drawn = to_floats(load_u16(list));
    }
    const PairGradient g =
        pair_gradient(p, row, j, load(b.scores + e), load(b.dweights + e), drawn, counts, keep);
    store_interleaved(&out[e].dscore, g.dscore, g.weight, g.dp, bit_cast_floats(j));
  }
  accumulate_rows(p.dq + i * p.dim, {&out->dscore, &out->other, 4, count}, p.k, p.dim);
}

/// Keys whose z fit the cache, or more, lest a row finds too few edges among them.
inline int64_t tile_keys(const AttendProblem& p, int64_t rows, int64_t edges) {
  constexpr int64_t kFewestEdges = 6;
  const int64_t fit = kCachedFloats / p.clusters + 1;
  const int64_t worthwhile = kFewestEdges * rows * p.num_keys / (edges + 1);
  const int64_t tiles = p.num_keys / (fit > worthwhile ? fit : worthwhile) + 1;
  return p.num_keys / tiles + 1;
}

/// The first edge of [edges, end) to `key` or a later one.
inline const EdgeGradient* first_edge_to(const EdgeGradient* edges, const EdgeGradient* end,
                                         int64_t key) {
  while (edges < end && edges->other < key) ++edges;
  return edges;
}

/// row_grad of rows [first_row, last_row), tile by tile of keys, so that z stays in the cache.
/// Apart from the other sums over a row, so that z alone fills it.
inline void accumulate_row_grad(const AttendProblem& p, const BackwardBuffers& b, int64_t first_row,
                                int64_t last_row) {
  if (p.clusters == 0) return;
  const int64_t rows = last_row - first_row;
  const int32_t base = p.row_ptr[first_row];
  const int64_t keys = tile_keys(p, rows, p.row_ptr[last_row] - base);
  for (int64_t r = 0; r < rows; ++r) b.next_edge[r] = p.row_ptr[first_row + r] - base;
  for (int64_t tile_end = keys; tile_end < p.num_keys + keys; tile_end += keys) {
    for (int64_t r = 0; r < rows; ++r) {
      const EdgeGradient* edges = b.by_row + b.next_edge[r];
      const EdgeGradient* row_end = b.by_row + (p.row_ptr[first_row + r + 1] - base);
      const EdgeGradient* end =
          tile_end < p.num_keys ? first_edge_to(edges, row_end, tile_end) : row_end;
      if (edges == end) continue;
      b.next_edge[r] = static_cast<int32_t>(end - b.by_row);
      accumulate_rows<SumOrder::kAscending>(p.row_grad + (first_row + r) * p.clusters,
                                            {&edges->dp, &edges->other, 4, end - edges}, p.z,
                                            p.clusters);
    }
  }
}

/// Regroups the edges of rows [first_row, last_row) by key, rows ascending within a key.
inline void sort_by_column(const AttendProblem& p, const BackwardBuffers& b, int64_t first_row,
                           int64_t last_row) {
  const int64_t count = p.row_ptr[last_row] - p.row_ptr[first_row];
  uint32_t* start = b.column_start;
  memset(start, 0, static_cast<size_t>(p.num_keys + 1) * sizeof(uint32_t));
  for (int64_t e = 0; e < count; ++e) ++start[b.by_row[e].other + 1];
  for (int64_t j = 0; j < p.num_keys; ++j) start[j + 1] += start[j];
  const EdgeGradient* edge = b.by_row;
  for (int64_t i = first_row; i < last_row; ++i) {
    for (int32_t e = p.row_ptr[i]; e < p.row_ptr[i + 1]; ++e, ++edge) {
      EdgeGradient& moved = b.by_column[start[edge->other]++];
      _mm_storeu_ps(&moved.dscore, _mm_loadu_ps(&edge->dscore));
      moved.other = static_cast<uint32_t>(i);
    }
  }
  // Every start has moved to the next key's: column j now begins where j - 1 says.
}

/// Calls visit(j, edges, count) for every key j with edges.
template <class Visit>
inline void for_each_column(const AttendProblem& p, const BackwardBuffers& b, const Visit& visit) {
  int64_t first = 0;
  for (int64_t j = 0; j < p.num_keys; ++j) {
    const int64_t last = b.column_start[j];
    if (first < last) visit(j, b.by_column + first, last - first);
    first = last;
  }
}

inline void accumulate_columns(const AttendProblem& p, const BackwardBuffers& b) {
  for_each_column(p, b, [&](int64_t j, const EdgeGradient* edges, int64_t count) {
    accumulate_rows(p.dk + j * p.dim, {&edges->dscore, &edges->other, 4, count}, p.q, p.dim);
    accumulate_rows(p.dv + j * p.dim, {&edges->weight, &edges->other, 4, count}, p.dout, p.dim);
  });
  if (p.clusters == 0) return;
  for_each_column(p, b, [&](int64_t j, const EdgeGradient* edges, int64_t count) {
    accumulate_rows<SumOrder::kAscending>(p.column_grad + j * p.clusters,
                                          {&edges->dp, &edges->other, 4, count}, p.y, p.clusters);
  });
}

/// Rows of a chunk, so that their y stays in the cache.
inline int64_t chunk_rows(const AttendProblem& p) {
  if (p.clusters == 0) return kChunkRows;
  return minimum(kChunkRows, kCachedFloats / p.clusters + kMicroRows);
}

inline void backward_by_edges(const AttendProblem& p, const BackwardBuffers& b) {
  if (p.key_mask != nullptr) pack_key_mask(b.key_words, p);
  for (int64_t i = 0; i < p.num_queries;) {
    const int64_t chunk = i;
    while (i < p.num_queries) {
      if (p.row_ptr[i + 1] - p.row_ptr[chunk] > b.max_edges) break;
      if (i + 1 - chunk > chunk_rows(p)) break;
      score_csr_row(p, b, i);
      differentiate_row(p, b, i, b.by_row + (p.row_ptr[i] - p.row_ptr[chunk]));
      ++i;
    }
    accumulate_row_grad(p, b, chunk, i);
    sort_by_column(p, b, chunk, i);
    accumulate_columns(p, b);
  }
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

inline void backward_tiled(const AttendProblem& p, const BackwardBuffers& b) {
  // Without straight-through gradient, keys after the last real one contribute nothing.
  const int64_t real_keys = pack_key_mask(b.key_words, p);
  const int64_t all_keys = p.clusters > 0 ? p.num_keys : real_keys;
  pack_transposed(b.packed_keys, p.k, all_keys, p.dim);
  pack_transposed(b.packed_values, p.v, all_keys, p.dim);
  for (int64_t j = 0; j < all_keys; j += kTileKeys) {
    const int64_t keys = minimum(all_keys - j, kTileKeys);
    const int64_t first_row = p.pattern.queries_of(j, p.num_queries).begin / kTileRows * kTileRows;
    const int64_t last_row = p.pattern.queries_of(j + keys - 1, p.num_queries).end;
    for (int64_t i = first_row; i < last_row; i += kTileRows) {
      const int64_t rows = minimum(p.num_queries - i, kTileRows);
      if (!has_pairs(p, i, rows, j)) continue;
      const int64_t at = i * p.dim;
      multiply<false>(b.tiles[0], kTileKeys, {p.q + at, p.dim, 1},
                      packed_panels(b.packed_keys, p.dim, j), rows, kTileKeys, p.dim);
      multiply<false>(b.tiles[1], kTileKeys, {p.dout + at, p.dim, 1},
                      packed_panels(b.packed_values, p.dim, j), rows, kTileKeys, p.dim);
      for (int64_t r = 0; r < rows; ++r) differentiate_tile_row(p, b, i + r, r, j);
      multiply<true>(p.dq + at, p.dim, {b.tiles[0], kTileKeys, 1},
                     row_major(p.k + j * p.dim, p.dim), rows, p.dim, keys);
      multiply<true>(p.dk + j * p.dim, p.dim, {b.tiles[0], 1, kTileKeys},
                     row_major(p.q + at, p.dim), keys, p.dim, rows);
      multiply<true>(p.dv + j * p.dim, p.dim, {b.tiles[1], 1, kTileKeys},
                     row_major(p.dout + at, p.dim), keys, p.dim, rows);
      if (p.clusters == 0) continue;
      multiply<true>(p.row_grad + i * p.clusters, p.clusters, {b.tiles[2], kTileKeys, 1},
                     row_major(p.z + j * p.clusters, p.clusters), rows, p.clusters, keys);
      multiply<true>(p.column_grad + j * p.clusters, p.clusters, {b.tiles[2], 1, kTileKeys},
                     row_major(p.y + i * p.clusters, p.clusters), keys, p.clusters, rows);
    }
  }
}

inline void backward(const AttendProblem& p, const BackwardBuffers& b) {
  const auto clear = [](float* rows, int64_t count, int64_t width) {
    memset(rows, 0, static_cast<size_t>(count * width) * sizeof(float));
  };
  clear(p.dq, p.num_queries, p.dim);
  clear(p.dk, p.num_keys, p.dim);
  clear(p.dv, p.num_keys, p.dim);
  if (p.clusters > 0) {
    clear(p.row_grad, p.num_queries, p.clusters);
    clear(p.column_grad, p.num_keys, p.clusters);
  }
  if (p.columns != nullptr) {
    backward_by_edges(p, b);
  } else if (p.bits != nullptr && density(p) < densest_by_bits(p)) {
    backward_bits(p, b);
  } else {
    backward_tiled(p, b);
  }
}

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
