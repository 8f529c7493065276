// SPDX-License-Identifier: Apache-2.0
// How evenly tokens are spread over groups: 1 where all groups have as many, 0 where one has all
// tokens, which is then a graph of everything, or of nothing that its name promises.
//
//   entropy of a sequence = - sum over groups (size / tokens) log(size / tokens) / log(groups)
//
// Sizes count queries and keys together, each in all its slots. Deterministic: yes; devices differ by
// the rounding of logarithms.
#pragma once

#include "core/arena.h"
#include "core/stream.h"
#include "core/view.h"

namespace stipple::kernels {

/// O(N T + G). One group: 1.
struct GroupOccupancy {
  View<double> entropy;     // [H]  written: sum over sequences that have a token in a group
  View<int64_t> sequences;  // [H]  written: how many these are
  View<const int32_t> query_groups;  // [B, H, N, T]  below num_groups, or kNoGroup
  View<const int32_t> key_groups;    // [B, H, M, T]
  int64_t num_groups = 1;
  Arena* scratch = nullptr;
};
void group_occupancy(const Stream&, const GroupOccupancy&);
namespace cpu {
void group_occupancy(const Stream&, const GroupOccupancy&);
}
namespace cuda {
void group_occupancy(const Stream&, const GroupOccupancy&);
}

}  // namespace stipple::kernels
