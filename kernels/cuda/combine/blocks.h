// SPDX-License-Identifier: Apache-2.0
// Combiner by blocks as two parts of attention by tiles of tensor cores (attend/tiles.cu): own blocks,
// each a problem of its own, and summaries, which are few keys that all queries share. Merged, they are
// the one softmax.
#pragma once

#include "core/stream.h"
#include "kernels/combine.h"

namespace stipple::kernels::cuda {

/// Whether these can be such: whole blocks without global tokens, a mass or dropout.
bool are_blocks_for_tiles(const Combine&);
bool are_blocks_for_tiles(const CombineBackward&);

/// What forward tells of each query, -1 where there is nothing to tell.
struct QueryFacts {
  float* direct_weight = nullptr;   // [B, H, N]  null: not wanted
  float* region_entropy = nullptr;  // [B, H, N]
};

/// As combine and combine_backward. Parts are stored as the output is, so that bf16 rounds twice.
/// facts are written where `tells`.
void combine_blocks(const Stream&, const Combine&, const QueryFacts&, bool tells);
void combine_blocks_backward(const Stream&, const CombineBackward&);

/// Of a plan: takes the scratch that these would take, where a leaf of the run may go this way though
/// the longest of training does not.
void plan_blocks(const Stream&, const Combine&, const QueryFacts&, bool tells);
void plan_blocks(const Stream&, const CombineBackward&);

}  // namespace stipple::kernels::cuda
