// SPDX-License-Identifier: Apache-2.0
#include "kernels/edges.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace stipple::kernels {
namespace {

constexpr int64_t kMostTokens = int64_t{1} << 31;  // N * M fits in 64 bits
constexpr int64_t kMostEdges = int64_t{1} << 31;   // row_ptr is 32 bits

bool reserves_bits(const EdgeCapacity& capacity) {
  return !capacity.multiplicity && capacity.max_density >= capacity.tile_density;
}

int64_t csr_room(int64_t pairs, const EdgeCapacity& capacity) {
  const double density = capacity.multiplicity
                             ? capacity.max_density
                             : std::min(capacity.max_density, capacity.tile_density);
  const double expected = std::clamp(density, 0.0, 1.0) * static_cast<double>(pairs);
  return std::min(pairs, static_cast<int64_t>(expected + 6.0 * std::sqrt(expected)) + 64);
}

void set_bits(EdgeSet& edges, int64_t p, View<const uint8_t> dense) {
  const int64_t words = edges.words_per_row();
  STIPPLE_CHECK(has_room_for_bits(edges),
                "set_edges: this graph has no room for bits, use EdgeForm::kCsr");
  int32_t* row_ptr = edges.row_ptr.at(p).data;
  row_ptr[0] = 0;
  for (int64_t i = 0; i < edges.num_queries; ++i) {
    uint32_t* row = edges.bits(p, i);
    std::fill(row, row + words, 0u);
    int32_t degree = 0;
    for (int64_t j = 0; j < edges.num_keys; ++j) {
      if (dense[i * edges.num_keys + j] == 0) continue;
      row[j / 32] |= 1u << (j % 32);
      ++degree;
    }
    row_ptr[i + 1] = row_ptr[i] + degree;
  }
}

void set_csr(EdgeSet& edges, int64_t p, View<const uint8_t> dense) {
  const int64_t room = edges.storage.shape[1];
  const int64_t count = dense.numel() - std::count(dense.data, dense.data + dense.numel(), 0);
  STIPPLE_CHECK(count <= room, "set_edges: ", count, " edges, room for ", room,
                "; raise max_density or tile_density");
  uint32_t* columns = edges.columns(p);
  uint16_t* multiplicity = edges.capacity.multiplicity ? edges.multiplicity.at(p).data : nullptr;
  int32_t* row_ptr = edges.row_ptr.at(p).data;
  int32_t next = 0;
  row_ptr[0] = 0;
  for (int64_t i = 0; i < edges.num_queries; ++i) {
    for (int64_t j = 0; j < edges.num_keys; ++j) {
      const uint8_t entry = dense[i * edges.num_keys + j];
      if (entry == 0) continue;
      columns[next] = static_cast<uint32_t>(j);
      if (multiplicity != nullptr) multiplicity[next] = entry;
      ++next;
    }
    row_ptr[i + 1] = next;
  }
}

}  // namespace

EdgeSet alloc_edges(Arena& arena, int64_t problems, int64_t num_queries, int64_t num_keys,
                    const EdgeCapacity& capacity) {
  STIPPLE_CHECK(num_queries >= 0 && num_keys >= 0 && problems >= 0,
                "alloc_edges: negative size: ", problems, " problems of ", num_queries, " x ",
                num_keys);
  STIPPLE_CHECK(num_queries < kMostTokens && num_keys < kMostTokens, "alloc_edges: ", num_queries,
                " x ", num_keys, " tokens; at most 2^31 each");
  const int64_t pairs = num_queries * num_keys;
  const int64_t most_edges = reserves_bits(capacity) ? pairs : csr_room(pairs, capacity);
  STIPPLE_CHECK(most_edges < kMostEdges, "alloc_edges: up to ", most_edges, " edges among ",
                num_queries, " x ", num_keys,
                " tokens, must stay below 2^31; promise a lower attention.sbm.max_density");
  EdgeSet edges;
  edges.num_queries = num_queries;
  edges.num_keys = num_keys;
  edges.capacity = capacity;
  int64_t words = csr_room(pairs, capacity);
  if (reserves_bits(capacity)) words = std::max(words, num_queries * edges.words_per_row());
  edges.form = arena.alloc<EdgeForm>({problems});
  edges.row_ptr = arena.alloc<int32_t>({problems, num_queries + 1});
  edges.storage = arena.alloc<uint32_t>({problems, words});
  if (capacity.multiplicity) edges.multiplicity = arena.alloc<uint16_t>({problems, words});
  return edges;
}

bool has_room_for_bits(const EdgeSet& edges) { return reserves_bits(edges.capacity); }

void set_edges(EdgeSet& edges, int64_t p, EdgeForm form, View<const uint8_t> dense) {
  STIPPLE_CHECK_SHAPE("set_edges", dense, ({edges.num_queries, edges.num_keys}));
  if (form == EdgeForm::kBits) {
    set_bits(edges, p, dense);
  } else {
    set_csr(edges, p, dense);
  }
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
