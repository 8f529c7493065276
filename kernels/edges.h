// SPDX-License-Identifier: Apache-2.0
// The attention graph: for each problem p = b * H + h a set of (query i, key j) pairs, stored as
// bits or as CSR, whichever is smaller and faster at that problem's density. Written by a sampler
// or a predictor, read by `attend_edges`.
//
// Bits:  row i is ceil(M / 32) words; bit j % 32 of word j / 32 is the pair (i, j). N * M / 8
// bytes, whatever the density. CSR:   column indices of row i at [row_ptr[i], row_ptr[i + 1]),
// strictly ascending. 4 bytes an edge. Both keep row_ptr, so degrees and counts cost nothing to ask
// for.
#pragma once

#include "core/arena.h"
#include "core/view.h"

namespace stipple::kernels {

enum class EdgeForm : uint8_t { kBits, kCsr };

/// How much room a graph may need, fixed when memory is planned.
struct EdgeCapacity {
  double tile_density = 0.25;  ///< problems with an expected density below this are sampled by rows
                               ///< into CSR, others into bits
  double max_density = 1.0;    ///< promised bound on any problem's density; below tile_density no
                               ///< bits are ever reserved
  bool multiplicity = false;   ///< keep edge counts (law poisson_multi): always CSR
};

struct EdgeSet {
  int64_t num_queries = 0;  ///< N
  int64_t num_keys = 0;     ///< M
  EdgeCapacity capacity;
  View<EdgeForm> form;          // [P]
  View<int32_t> row_ptr;        // [P, N + 1]
  View<uint32_t> storage;       // [P, words]  bits or column indices
  View<uint16_t> multiplicity;  // [P, words]  how often each CSR edge was drawn; empty unless
                                // capacity.multiplicity

  int64_t num_problems() const { return form.shape[0]; }
  int64_t words_per_row() const { return (num_keys + 31) / 32; }
  int64_t num_edges(int64_t p) const { return row_ptr.at(p)[num_queries]; }
  int32_t degree(int64_t p, int64_t i) const { return row_ptr.at(p)[i + 1] - row_ptr.at(p)[i]; }
  uint32_t* bits(int64_t p, int64_t i) const { return storage.at(p).data + i * words_per_row(); }
  uint32_t* columns(int64_t p) const { return storage.at(p).data; }
  bool has_bit(int64_t p, int64_t i, int64_t j) const {
    return bits(p, i)[j / 32] >> (j % 32) & 1u;
  }
};

/// Room for `problems` graphs of N queries and M keys. Bits are reserved only where max_density >=
/// tile_density; CSR room covers the largest expected count that goes to CSR plus six standard
/// deviations. The number of edges that may occur (N * M where bits are reserved) must stay below
/// 2^31.
EdgeSet alloc_edges(Arena&, int64_t problems, int64_t num_queries, int64_t num_keys,
                    const EdgeCapacity&);

/// Whether a problem of this graph can be stored as bits.
bool has_room_for_bits(const EdgeSet&);

/// Host helpers for tests and reference code (CPU memory): fill one problem from 0/1 entries [N, M]
/// (how often drawn, where the graph keeps multiplicity); read it back.
void set_edges(EdgeSet&, int64_t p, EdgeForm, View<const uint8_t> dense);
void get_edges(const EdgeSet&, int64_t p, View<uint8_t> dense);

}  // namespace stipple::kernels
