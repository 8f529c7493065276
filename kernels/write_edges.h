// SPDX-License-Identifier: Apache-2.0
// Graphs that are not drawn: the pairs of a pattern (windows, blocks, everything up to oneself),
// pairs that are near each other, or a list that the host has (a predicted or precomputed graph),
// written as the EdgeSet that attend_edges reads and edge_statistics counts.
//
// Pairs with a query or a key of mask 0 are left out. Rows ascend and no pair is there twice. More
// edges than the graph has room for throw EdgeRoomError; on CUDA the first that fit are kept and
// edges.overflow counts the rest. A pure function of its arguments, the same pairs on every device.
#pragma once

#include <span>

#include "core/arena.h"
#include "core/stream.h"
#include "kernels/edges.h"
#include "kernels/math/near.h"
#include "kernels/pattern.h"

namespace stipple::kernels {

/// Cost: a test a pair within reach of the window or, with other patterns, a pair; twice for CSR.
struct WriteEdges {
  EdgeSet edges;  // P problems  written; keeps no multiplicity
  Pattern pattern{};
  EdgeForm form = EdgeForm::kCsr;                ///< of every problem; kBits needs room for bits
  View<const uint8_t> query_mask{}, key_mask{};  // [B, N], [B, M], P = B * H; empty: all real
  Arena* scratch = nullptr;
};
void write_edges(const Stream&, const WriteEdges&);

/// Row i of problem p has the keys columns[row_ptr[p, i] ... row_ptr[p, i + 1]), ascending. Both lie
/// in host memory, are checked, and are copied before it returns: on CUDA it waits for the stream
/// and must not be captured. Error where offsets descend or leave the list, or columns do not ascend
/// or leave the keys.
struct WriteCsr {
  EdgeSet edges;                      // P problems  written; keeps no multiplicity
  std::span<const int32_t> row_ptr;   // [N + 1] for all problems alike, or [P, N + 1]
  std::span<const uint32_t> columns;  // of all problems
  EdgeForm form = EdgeForm::kCsr;
  View<const uint8_t> query_mask{}, key_mask{};  // [B, N], [B, M], P = B * H; empty: all real
  Arena* scratch = nullptr;
};
void write_csr(const Stream&, const WriteCsr&);

/// Query i sees key j where they are near each other, or where the pair is always there. Every pair
/// is looked at, in R dimensions: O(N M R), to tell what a threshold is worth.
struct WriteNearEdges {
  EdgeSet edges;           // P problems  written; keeps no multiplicity
  View<const float> q, k;  // [B, H, N, R], [B, H, M, R]
  math::Nearness nearness = math::Nearness::kSquaredDistance;
  float threshold = 1.0f;  ///< near: strictly below it
  math::AlwaysThere always{};
  bool is_causal = false;
  View<const uint8_t> query_mask{}, key_mask{};  // [B, N], [B, M]; empty: all real
  Arena* scratch = nullptr;
};
void write_near_edges(const Stream&, const WriteNearEdges&);

struct GraphToWrite;
namespace cpu {
void write_graph(const Stream&, const GraphToWrite&);
}
namespace cuda {
void write_graph(const Stream&, const GraphToWrite&);
}

}  // namespace stipple::kernels
