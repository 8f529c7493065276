// SPDX-License-Identifier: Apache-2.0
// The graph that groups of tokens predict: query i sees key j where they share one of their groups,
// or where the pair is always there. Written in time of its edges, whatever the number of pairs, and
// no pair is there twice however many groups it shares: entmax would count it twice.
//
// Pairs with a query or a key of mask 0 are left out, and later keys where causal. CSR, rows ascend.
// More edges than the graph has room for throw EdgeRoomError; on CUDA the first that fit are kept
// and edges.overflow counts the rest. A pure function of its arguments, the same on every device.
#pragma once

#include "core/arena.h"
#include "core/stream.h"
#include "core/view.h"
#include "kernels/edges.h"
#include "kernels/math/near.h"

namespace stipple::kernels {

/// Groups are below num_groups, or kNoGroup of tokens that have none. On the CPU edges.groups, where
/// it is there, is written too: of tokens with one group (T = 1).
/// O(edges + (N + M) T + groups); on CUDA the keys of groups are found in O(M T groups) more.
struct WriteGroupEdges {
  EdgeSet edges;                     // P problems  written; keeps no multiplicity
  View<const int32_t> query_groups;  // [B, H, N, T]  T up to kMostGroupsOfToken
  View<const int32_t> key_groups;    // [B, H, M, T]
  int64_t num_groups = 0;
  math::AlwaysThere always{};
  bool is_causal = false;
  View<const uint8_t> query_mask{}, key_mask{};  // [B, N], [B, M]; empty: all real
  Arena* scratch = nullptr;
};
inline constexpr int64_t kMostGroupsOfToken = 30;  ///< CUDA: a lane each, and two of `always`
void write_group_edges(const Stream&, const WriteGroupEdges&);

namespace cpu {
void write_group_edges(const Stream&, const WriteGroupEdges&);
}
namespace cuda {
void write_group_edges(const Stream&, const WriteGroupEdges&);
}

}  // namespace stipple::kernels
