// SPDX-License-Identifier: Apache-2.0
#include "kernels/edges.h"

#include <algorithm>
#include <cmath>

#include "core/dispatch.h"
#include "core/error.h"
#include "kernels/checks.h"

namespace stipple::kernels {
namespace {

constexpr int64_t kMostTokens = int64_t{1} << 31;  // N * M fits in 64 bits
constexpr int64_t kMostEdges = int64_t{1} << 31;   // row_ptr is 32 bits

bool reserves_bits(const EdgeCapacity& capacity) {
  return !capacity.multiplicity && capacity.max_density >= capacity.tile_density;
}

/// Every problem's words start on a boundary that wide loads can use.
int64_t round_up(int64_t words) { return (words + 31) / 32 * 32; }

int64_t csr_room(int64_t num_queries, int64_t num_keys, const EdgeCapacity& capacity) {
  const int64_t pairs = num_queries * num_keys;
  const bool is_promised = capacity.multiplicity || capacity.max_density < capacity.tile_density;
  const double density = is_promised ? capacity.max_density : capacity.tile_density;
  const double expected = std::clamp(density, 0.0, 1.0) * static_cast<double>(pairs);
  const int64_t window =
      is_promised ? num_queries * std::min(num_keys, 2 * capacity.window_radius) : 0;
  return std::min(pairs, static_cast<int64_t>(expected + 6.0 * std::sqrt(expected)) + 64 + window);
}

/// One of the two directions of a graph: by query, or by key.
struct Side {
  int64_t rows;
  int64_t columns;
  int64_t row_stride;  ///< in the dense matrix
  int64_t column_stride;
  int32_t* ptr;
  uint32_t* storage;
  uint16_t* multiplicity;
};

Side by_query(const EdgeSet& e, int64_t p) {
  return {e.num_queries,
          e.num_keys,
          e.num_keys,
          1,
          e.row_ptr.at(p).data,
          e.storage.at(p).data,
          e.capacity.multiplicity ? e.multiplicity.at(p).data : nullptr};
}

Side by_key(const EdgeSet& e, int64_t p) {
  return {e.num_keys,
          e.num_queries,
          1,
          e.num_keys,
          e.column_ptr.at(p).data,
          e.transposed.at(p).data,
          e.capacity.multiplicity ? e.transposed_multiplicity.at(p).data : nullptr};
}

void set_bits(BitOrder order, const Side& side, const uint8_t* dense) {
  const int64_t words = bit_words(order, side.columns);
  side.ptr[0] = 0;
  for (int64_t i = 0; i < side.rows; ++i) {
    uint32_t* row = side.storage + i * words;
    std::fill(row, row + words, 0u);
    int32_t degree = 0;
    for (int64_t j = 0; j < side.columns; ++j) {
      if (dense[i * side.row_stride + j * side.column_stride] == 0) continue;
      const BitPlace place = bit_place(order, j);
      row[place.word] |= 1u << place.bit;
      ++degree;
    }
    side.ptr[i + 1] = side.ptr[i] + degree;
  }
}

void set_csr(const Side& side, const uint8_t* dense) {
  int32_t next = 0;
  side.ptr[0] = 0;
  for (int64_t i = 0; i < side.rows; ++i) {
    for (int64_t j = 0; j < side.columns; ++j) {
      const uint8_t entry = dense[i * side.row_stride + j * side.column_stride];
      if (entry == 0) continue;
      side.storage[next] = static_cast<uint32_t>(j);
      if (side.multiplicity != nullptr) side.multiplicity[next] = entry;
      ++next;
    }
    side.ptr[i + 1] = next;
  }
}

void check_room(const EdgeSet& edges, EdgeForm form, View<const uint8_t> dense) {
  if (form == EdgeForm::kBits) {
    STIPPLE_CHECK(has_room_for_bits(edges),
                  "set_edges: this graph has no room for bits, use EdgeForm::kCsr");
    return;
  }
  const int64_t room = edges.storage.shape[1];
  const int64_t count = dense.numel() - std::count(dense.data, dense.data + dense.numel(), 0);
  STIPPLE_CHECK(count <= room, "set_edges: ", count, " edges, room for ", room, "; raise ",
                edges.capacity.csr_setting());
}

}  // namespace

EdgeSet alloc_edges(Arena& arena, int64_t problems, int64_t num_queries, int64_t num_keys,
                    const EdgeCapacity& capacity) {
  return alloc_edges(arena, problems, num_queries, num_keys, capacity, arena.device().backend());
}

EdgeSet alloc_edges(Arena& arena, int64_t problems, int64_t num_queries, int64_t num_keys,
                    const EdgeCapacity& capacity, DeviceType layout) {
  STIPPLE_CHECK(num_queries >= 0 && num_keys >= 0 && problems >= 0,
                "alloc_edges: negative size: ", problems, " problems of ", num_queries, " x ",
                num_keys);
  STIPPLE_CHECK(num_queries < kMostTokens && num_keys < kMostTokens, "alloc_edges: ", num_queries,
                " x ", num_keys, " tokens; at most 2^31 each");
  const int64_t pairs = num_queries * num_keys;
  const int64_t most_edges =
      reserves_bits(capacity) ? pairs : csr_room(num_queries, num_keys, capacity);
  STIPPLE_CHECK_AS(EdgeRoomError, most_edges < kMostEdges, "up to ", most_edges, " edges among ",
                   num_queries, " x ", num_keys,
                   " tokens, must stay below 2^31; promise a lower max_density");
  EdgeSet edges;
  edges.num_queries = num_queries;
  edges.num_keys = num_keys;
  edges.capacity = capacity;
  edges.bit_order = layout == DeviceType::kCuda ? BitOrder::kLanes : BitOrder::kRows;
  const int64_t csr_words = csr_room(num_queries, num_keys, capacity);
  const auto words = [&](int64_t bits) {
    return round_up(reserves_bits(capacity) ? std::max(csr_words, bits) : csr_words);
  };
  const int64_t row_words = words(num_queries * edges.words_per_row());
  edges.form = arena.alloc<EdgeForm>({problems});
  edges.row_ptr = arena.alloc<int32_t>({problems, num_queries + 1});
  edges.storage = arena.alloc<uint32_t>({problems, row_words});
  if (capacity.multiplicity) edges.multiplicity = arena.alloc<uint16_t>({problems, row_words});
  if (layout != DeviceType::kCuda) return edges;
  const int64_t column_words = words(num_keys * edges.words_per_column());
  edges.column_ptr = arena.alloc<int32_t>({problems, num_keys + 1});
  edges.transposed = arena.alloc<uint32_t>({problems, column_words});
  if (capacity.multiplicity) {
    edges.transposed_multiplicity = arena.alloc<uint16_t>({problems, column_words});
  }
  edges.overflow = arena.alloc<int32_t>({1});
  return edges;
}

EdgeGroups alloc_edge_groups(Arena& arena, const EdgeSet& edges, int64_t num_groups) {
  if (edges.bit_order == BitOrder::kLanes) return {};
  const int64_t problems = edges.num_problems();
  return {.queries = arena.alloc<int32_t>({problems, edges.num_queries}),
          .query_ptr = arena.alloc<int32_t>({problems, num_groups + 2}),
          .keys = arena.alloc<int32_t>({problems, edges.num_keys}),
          .key_ptr = arena.alloc<int32_t>({problems, num_groups + 2})};
}

bool has_room_for_bits(const EdgeSet& edges) { return reserves_bits(edges.capacity); }

void edge_statistics(const Stream& stream, const EdgeStatistics& args) {
  STIPPLE_CHECK_AS(ShapeError, args.edges.shape.rank() == 1 && args.edges.shape[0] > 0,
                   "edge_statistics: edges has shape ", args.edges.shape.str(), ", expected [H]");
  const int64_t heads = args.edges.shape[0];
  const int64_t problems = args.graph.num_problems();
  STIPPLE_CHECK_AS(ShapeError, problems % heads == 0, "edge_statistics: the graph has ", problems,
                   " problems, not a multiple of ", heads, " heads");
  STIPPLE_CHECK_SHAPE("edge_statistics", args.pairs, ({heads}));
  STIPPLE_CHECK_SHAPE("edge_statistics", args.empty_rows, ({heads}));
  STIPPLE_CHECK_SHAPE("edge_statistics", args.rows, ({heads}));
  const int64_t batch = problems / heads;
  check_mask("edge_statistics", "query_mask", args.query_mask, batch, args.graph.num_queries);
  check_mask("edge_statistics", "key_mask", args.key_mask, batch, args.graph.num_keys);
  STIPPLE_DISPATCH(stream, edge_statistics, args);
}

void set_edges(EdgeSet& edges, int64_t p, EdgeForm form, View<const uint8_t> dense) {
  STIPPLE_CHECK_SHAPE("set_edges", dense, ({edges.num_queries, edges.num_keys}));
  check_room(edges, form, dense);
  const auto set = [&](const Side& side) {
    if (form == EdgeForm::kBits) {
      set_bits(edges.bit_order, side, dense.data);
    } else {
      set_csr(side, dense.data);
    }
  };
  set(by_query(edges, p));
  if (!edges.transposed.empty()) set(by_key(edges, p));
  edges.form[p] = form;
}

void get_edges(const EdgeSet& edges, int64_t p, View<uint8_t> dense) {
  STIPPLE_CHECK_SHAPE("get_edges", dense, ({edges.num_queries, edges.num_keys}));
  std::fill(dense.data, dense.data + dense.numel(), uint8_t{0});
  for (int64_t i = 0; i < edges.num_queries; ++i) {
    uint8_t* row = dense.data + i * edges.num_keys;
    if (edges.form[p] == EdgeForm::kBits) {
      for (int64_t j = 0; j < edges.num_keys; ++j) row[j] = edges.has_bit(p, i, j) ? 1 : 0;
      continue;
    }
    for (int32_t e = edges.row_ptr.at(p)[i]; e < edges.row_ptr.at(p)[i + 1]; ++e) {
      row[edges.columns(p)[e]] =
          edges.capacity.multiplicity
              ? static_cast<uint8_t>(std::min<int>(255, edges.multiplicity.at(p)[e]))
              : uint8_t{1};
    }
  }
}

}  // namespace stipple::kernels
