// SPDX-License-Identifier: Apache-2.0
// What everybody who writes a graph on CUDA needs: rows once written, in bits or CSR, are finished by
// counting their degrees, turning these into offsets, and writing all of it once more by key. Problems
// go through this in waves, so that scratch memory does not grow with their number.
//
//   write bits by query, or degrees to row_ptr[i + 1]
//   count_bits(stream, graph, wave);
//   sum_degrees(stream, graph, wave, problems);
//   write columns by query at row_ptr
//   transpose_bits(stream, graph, wave);
//   transpose_csr(stream, graph, wave, cursors);
#pragma once

#include <algorithm>

#include "core/stream.h"
#include "kernels/edges.h"

namespace stipple::kernels::cuda {

/// An EdgeSet as plain pointers, as kernels take it; p's arrays start at p * stride.
struct WritableGraph {
  int64_t num_queries = 0;
  int64_t num_keys = 0;
  EdgeForm* form = nullptr;                // [P]
  int32_t* row_ptr = nullptr;              // [P, N + 1]
  int32_t* column_ptr = nullptr;           // [P, M + 1]
  uint32_t* by_query = nullptr;            // bits in lane order or CSR columns
  uint32_t* by_key = nullptr;              // bits in lane order or CSC rows
  uint16_t* query_multiplicity = nullptr;  // null: not kept
  uint16_t* key_multiplicity = nullptr;
  int32_t* overflow = nullptr;
  int64_t query_stride = 0;
  int64_t key_stride = 0;
  int64_t row_words = 0;     ///< of bits, a query
  int64_t column_words = 0;  ///< of bits, a key
  bool has_bits = false;     ///< room for bits is reserved

  /// CSR edges that fit.
  STIPPLE_HD int64_t room() const { return query_stride < key_stride ? query_stride : key_stride; }
};

WritableGraph writable_graph(const EdgeSet&);

/// Problems [first, first + count).
struct Wave {
  int64_t first = 0;
  int64_t count = 0;
};

/// Into how many chunks of rows a problem is cut, to count their edges and bring them by key side by
/// side. Each has a count a key, so chunks of few rows would cost more than their edges.
inline int64_t transpose_chunks(int64_t num_queries) {
  constexpr int64_t kFewestRows = 64;
  constexpr int64_t kMostChunks = 128;
  return std::clamp<int64_t>((num_queries + kFewestRows - 1) / kFewestRows, 1, kMostChunks);
}

// Each works on the problems of the wave that have the form it is for, all launch without asking
// the device which these are.

/// Degrees of rows that are stored as bits, to row_ptr[i + 1].
void count_bits(const Stream&, const WritableGraph&, const Wave&);
/// Degrees to offsets. CSR that is too large loses its last edges; graph.overflow, which whoever
/// begins the graph sets to 0, grows by their number. `problems`: of the whole graph.
void sum_degrees(const Stream&, const WritableGraph&, const Wave&, int64_t problems);
/// Bits by key of bits by query. form may be null: all problems are bits.
void transpose_bits(const Stream&, const WritableGraph&, const Wave&);
/// What transpose_csr() works in: [wave, transpose_chunks(N), M], for as many problems at once as fit
/// into 64 MiB, but one at least.
View<int32_t> alloc_cursors(Arena& scratch, const EdgeSet&);
/// CSC of CSR.
void transpose_csr(const Stream&, const WritableGraph&, const Wave&, View<int32_t> cursors);

}  // namespace stipple::kernels::cuda
