// SPDX-License-Identifier: Apache-2.0
// Combiner: every token sees some tokens directly and all others through summaries of regions, under
// one softmax. Formulas, deviations and costs: README.md beside this file.
//
// Saves, per region and head, 3 head_dim activations, 2 head_dim token numbers (pools by maximum) and
// a float; a float per token and head.
#pragma once

#include "kernels/combine.h"
#include "model/attention/attention.h"

namespace stipple::model {

class CombinerAttention final : public Attention {
 public:
  struct Saved final : Attention::Saved {
    kernels::Summaries summaries;
    View<float> lse;  // [B, H, N]
  };

  CombinerAttention(const AttentionConfig&, ParameterStore&, FactTable&, const AttentionShape&);
  static AttentionTraits traits(const AttentionConfig&);
  static void validate(const AttentionConfig&);

  std::unique_ptr<Attention::Saved> make_saved() const override;
  /// Regions are summarised and scored by what tokens are: a region has no place.
  bool reads_content() const override { return true; }

 private:
  void do_forward(Context&, const AttentionInputs&, RealView out, Attention::Saved&) const override;
  void do_backward(Context&, const AttentionInputs&, ConstRealView out, ConstRealView dout,
                   const Attention::Saved&, const AttentionGrads&) const override;

  kernels::Partition partition(const Context&, int64_t length) const;
  kernels::RegionMass mass() const;
  ConstRealView pooled(Context&, ConstRealView x) const;
  void add_pooled_gradient(Context&, ConstRealView x, RealView dpooled, RealView dx) const;
  void summarize_backward(Context&, const AttentionInputs&, const Saved&, ConstRealView dkey,
                          ConstRealView dvalue, const AttentionGrads&) const;

  const ParameterStore& store_;
  CombinerConfig config_;
  bool is_causal_;
  int64_t columns_;  ///< of the grid
  float scale_;
  float direct_dropout_;
  ParamId mass_;  ///< [H], where mass_bias is learned
};

}  // namespace stipple::model
