// SPDX-License-Identifier: Apache-2.0
// The attention graph: for each problem p = b * H + h a set of (query i, key j) pairs, stored as
// bits or as CSR, whichever is smaller and faster at that problem's density. Written by a sampler
// or a predictor, read by `attend_edges`.
//
// Bits: one bit a pair, N * M / 8 bytes whatever the density, in the order that the device's tiles
// want (BitOrder). CSR: column indices of row i at [row_ptr[i], row_ptr[i + 1]), strictly
// ascending, 4 bytes an edge. Both keep row_ptr, so degrees and counts cost nothing to ask for.
//
// On CUDA backward owns keys as forward owns queries, so the graph is kept twice: by query, and the
// transpose by key (CSC, or the transposed bits).
#pragma once

#include "core/arena.h"
#include "core/error.h"
#include "core/host_device.h"
#include "core/stream.h"
#include "core/view.h"

namespace stipple::kernels {

enum class EdgeForm : uint8_t { kBits, kCsr };

/// Where the bit of column j of a row stands.
enum class BitOrder : uint8_t {
  kRows,   ///< CPU: bit j % 32 of word j / 32
  kLanes,  ///< CUDA: 128 columns are four words; bit 2 (j % 128 / 8) + j % 2 of word
           ///< 4 (j / 128) + j % 8 / 2. The columns that lane 4 r + w of a warp holds of row r of a
           ///< tensor-core tile are then the bits of one word.
};
constexpr int64_t bit_words(BitOrder order, int64_t columns) {
  return order == BitOrder::kRows ? (columns + 31) / 32 : (columns + 127) / 128 * 4;
}
struct BitPlace {
  int64_t word;
  int bit;
};
STIPPLE_HD constexpr BitPlace bit_place(BitOrder order, int64_t column) {
  if (order == BitOrder::kRows) return {column / 32, static_cast<int>(column % 32)};
  return {column / 128 * 4 + column % 8 / 2, static_cast<int>(column % 128 / 8 * 2 + column % 2)};
}
/// The column whose bit_place() this is.
STIPPLE_HD constexpr int64_t bit_column(BitOrder order, BitPlace place) {
  if (order == BitOrder::kRows) return place.word * 32 + place.bit;
  return place.word / 4 * 128 + place.bit / 2 * 8 + place.word % 4 * 2 + place.bit % 2;
}

/// A graph does not fit into the room that its EdgeCapacity reserves, or no memory could hold what
/// the capacity promises: max_density or tile_density must change. Whoever owns the settings says
/// under which name.
class EdgeRoomError : public Error {
 public:
  using Error::Error;
};

/// How much room a graph may need, fixed when memory is planned.
struct EdgeCapacity {
  double tile_density = 0.25;  ///< problems with an expected density below this are sampled by rows
                               ///< into CSR, others into bits
  double max_density = 1.0;    ///< promised bound on any problem's density; below tile_density no
                               ///< bits are ever reserved
  bool multiplicity = false;   ///< keep edge counts (law poisson_multi): always CSR
  int64_t window_radius = 0;   ///< pairs as near as this are in the graph besides; their share of
                               ///< short sequences is more than max_density promises of long ones

  /// Which of the two decides how much room CSR has.
  const char* csr_setting() const {
    return !multiplicity && tile_density < max_density ? "tile_density" : "max_density";
  }
};

/// Tokens by the group that a graph was predicted from: those of one after another, ascending in
/// each, those of none last. Queries of a group mostly have its keys, which whoever walks the graph
/// in this order finds in the cache; no result depends on it. CPU only.
struct EdgeGroups {
  View<int32_t> queries;    // [P, N]
  View<int32_t> query_ptr;  // [P, groups + 2]  where each group's begin
  View<int32_t> keys;       // [P, M]
  View<int32_t> key_ptr;    // [P, groups + 2]

  bool empty() const { return queries.empty(); }
  int64_t count() const { return query_ptr.shape[1] - 2; }
};

struct EdgeSet {
  int64_t num_queries = 0;  ///< N
  int64_t num_keys = 0;     ///< M
  EdgeCapacity capacity;
  BitOrder bit_order = BitOrder::kRows;
  View<EdgeForm> form;          // [P]
  View<int32_t> row_ptr;        // [P, N + 1]
  View<uint32_t> storage;       // [P, words]  bits, words_per_row() a query, or column indices
  View<uint16_t> multiplicity;  // [P, words]  how often each CSR edge was drawn; empty unless
                                // capacity.multiplicity

  EdgeGroups groups{};  ///< empty: of no groups

  // By key; CUDA only, empty on the CPU.
  View<int32_t> column_ptr;   // [P, M + 1]  of CSR
  View<uint32_t> transposed;  // [P, words]  bits, words_per_column() a key, or row indices
  View<uint16_t> transposed_multiplicity;  // [P, words]
  View<int32_t> overflow;  // [1]  edges of the graph that had no room; the reader of it complains

  int64_t num_problems() const { return form.shape[0]; }
  int64_t words_per_row() const { return bit_words(bit_order, num_keys); }
  int64_t words_per_column() const { return bit_words(bit_order, num_queries); }

  // For graphs in host memory.
  int64_t num_edges(int64_t p) const { return row_ptr.at(p)[num_queries]; }
  int32_t degree(int64_t p, int64_t i) const { return row_ptr.at(p)[i + 1] - row_ptr.at(p)[i]; }
  uint32_t* bits(int64_t p, int64_t i) const { return storage.at(p).data + i * words_per_row(); }
  uint32_t* columns(int64_t p) const { return storage.at(p).data; }
  bool has_bit(int64_t p, int64_t i, int64_t j) const {
    const BitPlace place = bit_place(bit_order, j);
    return bits(p, i)[place.word] >> place.bit & 1u;
  }
};

/// Room for `problems` graphs of N queries and M keys. Bits are reserved only where max_density >=
/// tile_density; CSR room covers the largest expected count that goes to CSR plus six standard
/// deviations. The number of edges that may occur (N * M where bits are reserved) must stay below
/// 2^31, else EdgeRoomError. The layout is that of the arena's device, or of the device it plans for, unless `layout`
/// says otherwise.
EdgeSet alloc_edges(Arena&, int64_t problems, int64_t num_queries, int64_t num_keys,
                    const EdgeCapacity&);
EdgeSet alloc_edges(Arena&, int64_t problems, int64_t num_queries, int64_t num_keys,
                    const EdgeCapacity&, DeviceType layout);

/// Room for the groups of such a graph's tokens; none where the layout is CUDA's.
EdgeGroups alloc_edge_groups(Arena&, const EdgeSet&, int64_t num_groups);

/// Whether a problem of this graph can be stored as bits.
bool has_room_for_bits(const EdgeSet&);

/// What a graph amounts to, per head, summed over the batch.
struct EdgeStatistics {
  View<int64_t> edges;                           // [H]  written
  View<int64_t> pairs;                           // [H]  written: real queries x real keys
  View<int64_t> empty_rows;                      // [H]  written: real queries without an edge
  View<int64_t> rows;                            // [H]  written: real queries
  EdgeSet graph;                                 // B * H problems
  View<const uint8_t> query_mask{}, key_mask{};  // [B, N], [B, M]; empty: all real
};
void edge_statistics(const Stream&, const EdgeStatistics&);
namespace cpu {
void edge_statistics(const Stream&, const EdgeStatistics&);
}
namespace cuda {
void edge_statistics(const Stream&, const EdgeStatistics&);
}

/// Host helpers for tests and reference code (graphs in CPU memory, of any layout): fill one
/// problem from 0/1 entries [N, M] (how often drawn, where the graph keeps multiplicity), by query
/// and, where the layout has it, by key; read it back.
void set_edges(EdgeSet&, int64_t p, EdgeForm, View<const uint8_t> dense);
void get_edges(const EdgeSet&, int64_t p, View<uint8_t> dense);

}  // namespace stipple::kernels
