// SPDX-License-Identifier: Apache-2.0
// What attentions with entmax have in common: alpha and temperature of their heads, the scale of
// scores, causality and dropout, and with them forward and backward over the edges of a graph or,
// without one, over all pairs. Formulas: kernels/attend_entmax.h.
//
// Saves, per token and head, head_dim activations, two numbers and up to kernels::kEntmaxRoom key
// numbers of 4 bytes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/attend_entmax.h"
#include "kernels/edge_list.h"
#include "model/attention/attention.h"
#include "model/attention/entmax/entmax_head_layer.h"

namespace stipple::model {

class EntmaxOverPairs {
 public:
  struct Saved : Attention::Saved {
    RealView o2;      // [B, H, N, D]
    View<float> tau;  // [B, H, N]
    kernels::EntmaxSupport support;
    kernels::EntmaxHeads heads;
    kernels::EdgeSet edges;  ///< none: all pairs
    /// [H]: heads that are computed over the edges, and others over all pairs; empty: all alike.
    std::vector<uint8_t> over_edges;
  };

  /// What exact attention gives beside Saved.
  struct Rows {
    View<float> tau;  // [B, H, N]
    kernels::EntmaxSupport support;
    RealView o;  // [B, H, N, D]
  };

  EntmaxOverPairs(const AttentionConfig&, ParameterStore&, FactTable&, const AttentionShape&);

  bool is_causal() const { return pattern_.is_causal; }
  float scale() const { return scale_; }

  /// Before the first forward of a training step, on every rank.
  void begin_step(const Stream&, const RngKey&) const;
  /// By saved.over_edges; the graph is that of all heads. Each head has the bits that it would have
  /// were all others like it.
  void forward(Context&, const AttentionInputs&, const kernels::EdgeSet&, RealView out,
               Saved&) const;
  void backward(Context&, const AttentionInputs&, ConstRealView dout, const Saved&,
                const AttentionGrads&) const;

  /// Memory for rows of the shape and storage of q, with room for so many keys of a support.
  static Rows alloc_rows(Arena&, ConstRealView q, int64_t room = kernels::kEntmaxRoom);
  /// Alpha and temperature as forward() has them.
  kernels::EntmaxHeads heads(Context&) const;
  /// Of all pairs, or of these, nothing dropped.
  void over_all_pairs(Context& ctx, const AttentionInputs& in, const kernels::EntmaxHeads& heads,
                      const Rows& rows) const {
    over_pairs(ctx, in, heads, {}, rows);
  }
  void over_pairs(Context&, const AttentionInputs&, const kernels::EntmaxHeads&,
                  const kernels::EdgeSet&, const Rows&) const;
  /// The supports of exact attention of a row of the leaf, by head, among these of its tokens. `kept`
  /// holds them where there was room; longer ones are computed once more, with room for all, and all
  /// are where it is empty. Waits for the stream.
  std::vector<kernels::EdgeList> supports(Context&, const AttentionInputs&,
                                          const kernels::EntmaxHeads&,
                                          const kernels::EntmaxSupport& kept, int64_t row,
                                          const std::vector<int64_t>& tokens) const;
  /// One token over all keys that are not masked: `in` has its q, and k, v and mask of a cache.
  void decode(Context&, const AttentionInputs& in, RealView out) const;

 private:
  kernels::EdgeList support_of(Context&, const AttentionInputs&, const kernels::EntmaxHeads&,
                               const kernels::EntmaxSupport& kept, int64_t row, int64_t head) const;
  /// All but what the caller wants to know.
  kernels::AttendEntmax arguments(Context&, const AttentionInputs&, const kernels::EntmaxHeads&,
                                  RealView out) const;

  EntmaxHeadLayer heads_;
  float scale_;
  kernels::Pattern pattern_;
  float dropout_rate_;
};

}  // namespace stipple::model
