// SPDX-License-Identifier: Apache-2.0
// Pairs that may be in the support of exact entmax attention, which attention over them then is, to
// the bit: keys are in groups, and a group is left out for a query where no key of it could score above
// a lower bound of the query's tau. Any subset of a query's keys gives such a bound, as the tau of
// attention over it (kernels/attend_entmax.h).
//
// A group's bound is the smaller of two: the largest product with its box, the least and the largest
// value of each channel, and with its ball, |q| radius around the mean. Both are rounded away from
// leaving out. A query whose bound of tau is no number (+inf of a row without keys, too) keeps all.
//
//   bound(q, g) = min( sum_c max(q_c low_gc, q_c high_gc),  q . mean_g + |q| radius_g )
#pragma once

#include "core/arena.h"
#include "core/real_view.h"
#include "core/stream.h"
#include "core/view.h"
#include "kernels/attend_entmax.h"
#include "kernels/edges.h"

namespace stipple::kernels {

/// A key is in the group of its first slot, or, where that is kNoGroup, never seen. O(N G D + edges);
/// on CUDA a test of a bit for each pair besides. CSR, rows ascend; more edges than there is room for as
/// in kernels/group_edges.h.
struct WriteBoundEdges {
  EdgeSet edges;                   // B * H problems  written; keeps no multiplicity
  ConstRealView q;                 // [B, H, N, D]
  ConstRealView k;                 // [B, H, M, D]
  View<const float> tau;           // [B, H, N]  lower bounds
  View<const int32_t> key_groups;  // [B, H, M, T]
  int64_t num_groups = 0;          ///< G
  EntmaxHeads heads;
  float scale = 1.0f;
  bool is_causal = false;
  View<const uint8_t> query_mask{}, key_mask{};  // [B, N], [B, M]; empty: all real
  Arena* scratch = nullptr;
};
void write_bound_edges(const Stream&, const WriteBoundEdges&);
namespace cpu {
void write_bound_edges(const Stream&, const WriteBoundEdges&);
}
namespace cuda {
void write_bound_edges(const Stream&, const WriteBoundEdges&);
}

}  // namespace stipple::kernels
