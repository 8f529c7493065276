// SPDX-License-Identifier: Apache-2.0
// Exact attention with alpha-entmax in place of softmax: a query's weights are zero for all keys but
// its support. Formulas, deviations and costs: README.md beside this file.
#pragma once

#include "model/attention/entmax/entmax_over_pairs.h"
#include "model/attention/entmax/support_facts.h"

namespace stipple::model {

class EntmaxAttention final : public Attention {
 public:
  using Saved = EntmaxOverPairs::Saved;

  EntmaxAttention(const AttentionConfig&, ParameterStore&, FactTable&, const AttentionShape&);
  static AttentionTraits traits(const AttentionConfig&);
  static void validate(const AttentionConfig&);

  std::unique_ptr<Attention::Saved> make_saved() const override;
  void begin_step(const Stream&, const RngKey&) const override;
  void tell_graphs(Context&, const AttentionInputs&, const Attention::Saved&) const override;
  /// Keys and values of all tokens. A token costs O(longest D) for each head.
  std::unique_ptr<AttentionCache> make_cache(Arena&, const Stream&, int64_t longest) const override;

 private:
  void do_forward(Context&, const AttentionInputs&, RealView out, Attention::Saved&) const override;
  void do_decode(Context&, const AttentionInputs&, RealView out, AttentionCache&) const override;
  void do_backward(Context&, const AttentionInputs&, ConstRealView out, ConstRealView dout,
                   const Attention::Saved&, const AttentionGrads&) const override;

  int64_t num_heads_, head_dim_;
  EntmaxOverPairs entmax_;
  SupportFacts facts_;
};

/// Attention of `attention.entmax`: softmax's where alpha is 1 and stays so.
std::unique_ptr<Attention> make_entmax_attention(const AttentionConfig&, ParameterStore&,
                                                 FactTable&, const AttentionShape&);

}  // namespace stipple::model
