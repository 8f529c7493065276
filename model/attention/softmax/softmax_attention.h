// SPDX-License-Identifier: Apache-2.0
// Exact softmax attention over the real keys, or those up to the query itself. No parameters. Saves the log-sum-exp of each row, one
// float per token and head, and on the CPU dropout's bits, one per pair and head, of sequences of at
// most kMostKeptKeys tokens; longer ones make them again in backward.
#pragma once

#include "kernels/attend.h"
#include "model/attention/attention.h"

namespace stipple::model {

class SoftmaxAttention final : public Attention {
 public:
  static constexpr int64_t kMostKeptKeys = 2048;

  struct Saved final : Attention::Saved {
    View<float> lse;      // [B, H, N]
    View<uint32_t> kept;  // kernels::AttentionDropout::kept
  };

  SoftmaxAttention(const AttentionConfig&, ParameterStore&, FactTable&, const AttentionShape&);
  std::unique_ptr<Attention::Saved> make_saved() const override;
  /// Keys and values of all tokens. A token costs O(longest D) for each head.
  std::unique_ptr<AttentionCache> make_cache(Arena&, const Stream&, int64_t longest) const override;

 private:
  void do_forward(Context&, const AttentionInputs&, RealView out, Attention::Saved&) const override;
  void do_decode(Context&, const AttentionInputs&, RealView out, AttentionCache&) const override;
  void do_backward(Context&, const AttentionInputs&, ConstRealView out, ConstRealView dout,
                   const Attention::Saved&, const AttentionGrads&) const override;

  int64_t heads_, head_dim_;
  float scale_;
  kernels::Pattern pattern_;
  float dropout_rate_;
};

}  // namespace stipple::model
