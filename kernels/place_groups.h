// SPDX-License-Identifier: Apache-2.0
// Groups of tokens by where they stand, whatever they are: the graphs that sparse Transformers fix
// beforehand, as groups that kernels/group_edges.h writes the pairs of. Queries and keys are of one
// sequence; windows and first global tokens are AlwaysThere's business.
//
// kRandomBlocks   keys are cut into blocks; each query sees so many of them at random (BigBird,
//                 Zaheer et al. 2020)
// kRandomTokens   so many tokens at random see all and are seen by all (Longformer's global tokens,
//                 Beltagy et al. 2020)
// kFixed          a query sees its own block, and the last `summary` keys of every block (Sparse
//                 Transformer, Child et al. 2019, "fixed")
// kStrided        a query sees the keys a multiple of `size` away ("strided", whose neighbours a window
//                 of that radius adds)
//
// What is random is a function of `draws` alone, of the place of a query, and of how many real tokens
// there are; where causal, of no token behind the query. The same bits on every device.
#pragma once

#include "core/stream.h"
#include "core/view.h"
#include "kernels/math/place_groups.h"

namespace stipple::kernels {

/// O(N T^2), with kRandomTokens O(N tokens^2).
struct PlaceGroups {
  View<int32_t> query_groups;  // [B, H, N, T]  written: below num_place_groups(), or kNoGroup
  View<int32_t> key_groups;    // [B, H, N, T]  written
  View<const float> draws;     // [H]  numbers that name the draws of a head; empty: nothing random
  View<const uint8_t> mask{};  // [B, N]; empty: all real
  math::PlaceRule rule;
};
void place_groups(const Stream&, const PlaceGroups&);

/// T of a rule.
int64_t groups_of_place(const math::PlaceRule&);
/// Groups of sequences of n tokens.
int64_t num_place_groups(const math::PlaceRule&, int64_t n);

namespace cpu {
void place_groups(const Stream&, const PlaceGroups&);
}
namespace cuda {
void place_groups(const Stream&, const PlaceGroups&);
}

}  // namespace stipple::kernels
