// SPDX-License-Identifier: Apache-2.0
// Between cusparse.cpp, which calls the library, and cusparse.cu, which holds our
// kernels around it: the graphs of all problems as one block-diagonal CSR matrix.
//
// Row p * rows + i of the matrix is row i of problem p, its columns are p * columns + j. Each
// problem has the same room for entries, `capacity`, because the host must name their number and
// does not know it. What a problem leaves unused its rows share evenly, each at its end: entries
// that repeat the last column, and are 0 in every factor of a product. They cost what edges cost:
// to compare with the library itself, give graphs as CSR with a max_density just above the density.
#pragma once

#include "core/arena.h"
#include "core/stream.h"
#include "kernels/cuda/attend/parts.h"

namespace stipple::kernels::cuda {

/// Which rows own the edges of the matrix.
enum class EdgeOwner : uint8_t { kQueries, kKeys };

struct BlockDiagonal {
  EdgeOwner owner = EdgeOwner::kQueries;
  int64_t problems = 0;
  int64_t rows = 0;     ///< of a problem
  int64_t columns = 0;  ///< of a problem
  int64_t capacity = 0;
  int32_t* offsets = nullptr;  // [problems * rows + 1]
  int32_t* indices = nullptr;  // [problems * capacity]
  int32_t* counts = nullptr;   ///< [problems]  entries that are edges

  int64_t all_rows() const { return problems * rows; }
  int64_t all_columns() const { return problems * columns; }
  int64_t all_entries() const { return problems * capacity; }
};

/// Values of the entries of a matrix, in their order.
struct EdgeValues {
  float* scores = nullptr;         ///< scale q . k; in backward then ds
  float* values = nullptr;         ///< do . v; then the weight of dout in dv. Backward only.
  float* probabilities = nullptr;  ///< written: the straight-through gradient, if wanted
};

/// Writes offsets, indices and counts from bits or CSR.
void fill_block_diagonal(const Stream&, const AttendArrays&, const BlockDiagonal&);

/// Scores become normalised weights after dropout, padding 0; writes a.lse.
void weigh_edges(const Stream&, const AttendArrays&, const BlockDiagonal&, float* scores);

/// What backward makes of each edge, see EdgeValues; padding 0.
void differentiate_edges(const Stream&, const AttendArrays&, const BlockDiagonal&,
                         const EdgeValues&);

}  // namespace stipple::kernels::cuda
