// SPDX-License-Identifier: Apache-2.0
// Combiner by blocks, causal, for a sequence that is given token by token: global tokens and the
// block that is being filled, and of each block before it the pooled key and the value. Softmax's
// operations over either, merged; a block that is full is summarised by training's own operation, so
// every pool will do, and the block keeps its queries rather than a running maximum of them.
//
// Keeps, per head, 4 D numbers a token of the block and of the globals, 2 D a block: (block + N /
// block) / N of what softmax keeps, some. Cost: O((block + N / block) D) a token and head.
#pragma once

#include "kernels/combine.h"
#include "model/attention/attention.h"
#include "model/attention/combiner/pool_layer.h"

namespace stipple::model {

/// What of the attention a pass needs.
struct FixedDecoding {
  kernels::Partition partition;  ///< of the longest sequence, for the layer that runs
  const PoolLayer& query_pool;
  const PoolLayer& key_pool;
  kernels::RegionPool pool;
  kernels::RegionMass mass;
  float scale;
};

class FixedCache final : public AttentionCache {
 public:
  /// For a sequence of the partition; of layers that shift their blocks and that do not, that with
  /// more blocks.
  FixedCache(Arena&, const Stream&, const kernels::Partition&, int64_t heads, int64_t head_dim);

  int64_t longest() const { return longest_; }
  /// The token at ctx.decoding->position: out [1, H, 1, D] written.
  void decode(Context&, const AttentionInputs&, RealView out, const FixedDecoding&);

 private:
  void begin_sequence(const Stream&);
  void begin_block(const Stream&, int64_t globals);
  void keep(const Stream&, const AttentionInputs&, int64_t row);
  kernels::AttendPart attend(Context&, const AttentionInputs&, const FixedDecoding&);
  kernels::AttendPart attend_blocks(Context&, const AttentionInputs&, const FixedDecoding&,
                                    int64_t row);
  void add_mass(Context&, View<float> lse, const kernels::RegionMass&, int64_t tokens) const;
  void close_block(Context&, const AttentionInputs&, const FixedDecoding&, int64_t block);

  int64_t longest_;
  // Global tokens, then those of the block.
  RealView k_, v_;                  // [1, H, M, D]
  RealView content_q_, content_k_;  // [1, H, M, D]
  View<uint8_t> given_;             // [1, M]
  // Blocks that are full.
  RealView key_, value_;  // [1, H, R, D]
  View<uint8_t> closed_;  // [2, R]  those of partition.block tokens; the first one, where shorter
  View<float> ones_;      // [H, 1]
};

}  // namespace stipple::model
