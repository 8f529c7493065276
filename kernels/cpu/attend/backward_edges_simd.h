// SPDX-License-Identifier: Apache-2.0
// Attention backward over CSR, chunk of queries by chunk. Along the rows: scores and dA, gradients
// of the edges, sums over a query's keys, in tiles of keys whose rows stay in the second-level cache.
// Then edges are regrouped by key with a counting sort, and sums over a key's queries walk them. No
// sum scatters, and none depends on how queries and keys were cut. Arrays are gathered in passes of
// their own, so that one alone fills the cache.
#pragma once

#include "kernels/cpu/attend/edge_sums_simd.h"
#include "kernels/cpu/attend/gradient_simd.h"

namespace stipple::kernels::cpu::STIPPLE_SIMD {

/// Edges [first, first + count) of a problem, of query i.
struct RowEdges {
  int64_t i;
  int64_t first;
  int64_t count;
};

/// How many rows of this many numbers stay in the cache.
inline int64_t cached_rows(int64_t floats) {
  return floats > 0 ? kCachedFloats / floats + 1 : std::numeric_limits<int32_t>::max();
}

inline int64_t end_of_chunk(const AttendProblem& p, const BackwardBuffers& b, Range queries) {
  const int64_t most = minimum(kChunkRows, cached_rows(p.clusters) + kMicroRows);
  const int64_t last = minimum(queries.end, queries.begin + most);
  int64_t i = queries.begin + 1;
  while (i < last && p.row_ptr[i + 1] - p.row_ptr[queries.begin] <= b.max_edges) ++i;
  return i;
}

/// Keys of a tile: as many as stay in the cache, or more, lest a row finds too few edges among them.
inline int64_t tile_keys(const AttendProblem& p, Range rows, Range keys, int64_t floats) {
  constexpr int64_t kFewestEdges = 6;
  const int64_t edges = p.row_ptr[rows.end] - p.row_ptr[rows.begin];
  const int64_t worthwhile = kFewestEdges * (rows.end - rows.begin) * p.num_keys / (edges + 1);
  const int64_t fit = cached_rows(floats);
  const int64_t tiles = (keys.end - keys.begin) / (fit > worthwhile ? fit : worthwhile) + 1;
  return (keys.end - keys.begin) / tiles + 1;
}

/// The first edge of [edge, end) to `key` or a later one.
inline int32_t first_edge_to(const AttendProblem& p, int32_t edge, int32_t end, int64_t key) {
  if (key <= 0) return edge;
  if (key >= p.num_keys) return end;
  while (edge < end && p.columns[edge] < key) ++edge;
  return edge;
}

/// Calls visit(RowEdges) for the edges of the rows to the keys, tile of keys by tile; `floats` are
/// gathered of a key.
template <class Visit>
inline void for_each_row(const AttendProblem& p, const BackwardBuffers& b, Range rows, Range keys,
                         int64_t floats, const Visit& visit) {
  for (int64_t i = rows.begin; i < rows.end; ++i) {
    b.next_edge[i - rows.begin] = first_edge_to(p, p.row_ptr[i], p.row_ptr[i + 1], keys.begin);
  }
  const int64_t tile = tile_keys(p, rows, keys, floats);
  for (int64_t key = keys.begin; key < keys.end; key += tile) {
    const int64_t tile_end = minimum(key + tile, keys.end);
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      int32_t& next = b.next_edge[i - rows.begin];
      const int32_t first = next;
      next = first_edge_to(p, first, p.row_ptr[i + 1], tile_end);
      if (first < next) visit(RowEdges{i, first, next - first});
    }
  }
}

// --- along the rows ------------------------------------------------------------------------------

/// Gradients of edges from their scores and dA.
inline void differentiate_edges(const AttendProblem& p, const BackwardBuffers& b,
                                const RowEdges& edges, EdgeGradient* out) {
  const uint32_t* columns = p.columns + edges.first;
  const RowConstants row = row_constants(p, edges.i);
  const Mask all = first_lanes(kWidth);
  for (int64_t e = 0; e < edges.count; e += kWidth) {
    const int64_t left = minimum(edges.count - e, kWidth);
    const Words j = load(columns + e, first_lanes(left));
    const Mask counts = p.key_mask == nullptr ? all : key_counts(b.key_words, j);
    const Mask keep = p.dropout.on ? recall_edges(p, edges.i, j, edges.first + e, left) : all;
    Floats drawn = splat(1.0f);
    if (p.multiplicity != nullptr) {
      uint16_t list[kWidth] = {};
      memcpy(list, p.multiplicity + edges.first + e, static_cast<size_t>(left) * sizeof(uint16_t));
      drawn = to_floats(load_u16(list));
    }
    const PairGradient g =
        pair_gradient(p, row, j, load(b.scores + e), load(b.dweights + e), drawn, counts, keep);
    if (left == kWidth) {
      store_interleaved(&out[e].dscore, g.dscore, g.weight, g.dp, bit_cast_floats(j));
    } else {  // what lies behind is the next row's
      EdgeGradient last[kWidth];
      store_interleaved(&last->dscore, g.dscore, g.weight, g.dp, bit_cast_floats(j));
      memcpy(out + e, last, static_cast<size_t>(left) * sizeof(EdgeGradient));
    }
  }
}

/// by_row and, if asked, dq and row_grad.
inline void backward_rows(const AttendProblem& p, const BackwardBuffers& b,
                          const BackwardPart& part, Range rows) {
  const auto edges_of = [&](const RowEdges& e) {
    return b.by_row + (e.first - p.row_ptr[rows.begin]);
  };
  const int64_t d = p.dim;
  const int64_t k = p.clusters;
  for_each_row(p, b, rows, part.keys, 2 * d, [&](const RowEdges& e) {
    const uint32_t* columns = p.columns + e.first;
    gather_scores(b.scores, p.q + e.i * d, p.k, d, columns, e.count, p.scale);
    gather_scores(b.dweights, p.dout + e.i * d, p.v, d, columns, e.count, 1.0f);
    EdgeGradient* edges = edges_of(e);
    differentiate_edges(p, b, e, edges);
    if (!part.by_query) return;
    sum_alone(EdgeRun{edges, e.count}, {p.dq + e.i * d, &edges->dscore, p.k, d});
  });
  if (!part.by_query || k == 0) return;
  for_each_row(p, b, rows, part.keys, k, [&](const RowEdges& e) {
    const EdgeGradient* edges = edges_of(e);
    sum_alone(EdgeRun{edges, e.count}, {p.row_grad + e.i * k, &edges->dp, p.z, k});
  });
}

// --- along the columns ---------------------------------------------------------------------------

/// Regroups the edges of the rows by key, rows ascending within a key.
inline void sort_by_column(const AttendProblem& p, const BackwardBuffers& b, Range rows,
                           Range keys) {
  uint32_t* start = b.column_start;
  memset(start + keys.begin, 0, static_cast<size_t>(keys.end - keys.begin + 1) * sizeof(uint32_t));
  for_each_row(p, b, rows, keys, 0, [&](const RowEdges& edges) {
    for (int64_t e = 0; e < edges.count; ++e) ++start[p.columns[edges.first + e] + 1];
  });
  for (int64_t j = keys.begin; j < keys.end; ++j) start[j + 1] += start[j];

  constexpr int64_t kAhead = 8;  // a store that misses the cache makes those behind it wait
  const int64_t base = p.row_ptr[rows.begin];
  const int64_t last_edge = p.row_ptr[rows.end] - 1;
  for_each_row(p, b, rows, keys, 0, [&](const RowEdges& edges) {
    for (int64_t e = edges.first; e < edges.first + edges.count; ++e) {
      const uint32_t later = p.columns[minimum(e + kAhead, last_edge)];
      __builtin_prefetch(b.by_column + start[later], 1);
      EdgeGradient& moved = b.by_column[start[p.columns[e]]++];
      _mm_storeu_ps(&moved.dscore, _mm_loadu_ps(&b.by_row[e - base].dscore));
      moved.other = static_cast<uint32_t>(edges.i);
    }
  });
  // Every start has moved to the next key's: column j now begins where j - 1 says.
}

/// Calls visit(j, edges) for every key j with edges.
template <class Visit>
inline void for_each_column(const BackwardBuffers& b, Range keys, const Visit& visit) {
  int64_t first = 0;
  for (int64_t j = keys.begin; j < keys.end; ++j) {
    const int64_t last = b.column_start[j];
    if (first < last) visit(j, EdgeRun{b.by_column + first, last - first});
    first = last;
  }
}

inline void backward_columns(const AttendProblem& p, const BackwardBuffers& b, Range keys) {
  const int64_t d = p.dim;
  const int64_t k = p.clusters;
  for_each_column(b, keys, [&](int64_t j, const EdgeRun& run) {
    sum_edges<true>(run, {}, {p.dk + j * d, &run.edges->dscore, p.q, d},
                    {p.dv + j * d, &run.edges->weight, p.dout, d});
  });
  if (k == 0) return;
  for_each_column(b, keys, [&](int64_t j, const EdgeRun& run) {
    sum_alone(run, {p.column_grad + j * k, &run.edges->dp, p.y, k});
  });
}

inline void backward_by_edges(const AttendProblem& p, const BackwardBuffers& b,
                              const BackwardPart& part) {
  if (p.key_mask != nullptr) pack_key_mask(b.key_words, p);
  for (Range rows = part.queries; rows.begin < part.queries.end; rows.begin = rows.end) {
    rows.end = end_of_chunk(p, b, {rows.begin, part.queries.end});
    backward_rows(p, b, part, rows);
    if (!part.by_key) continue;
    sort_by_column(p, b, rows, part.keys);
    backward_columns(p, b, part.keys);
  }
}

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
