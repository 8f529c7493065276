// SPDX-License-Identifier: Apache-2.0
// Combiner: every token sees some tokens directly and all others through summaries of regions, under
// one softmax. Formulas, deviations and costs: README.md beside this file.
//
// Saves, per region and head, 3 head_dim activations, 2 head_dim token numbers (pools by maximum) and
// a float; a float per token and head. A mixture that averages saves so twice, and both outputs.
#pragma once

#include <array>
#include <optional>

#include "kernels/combine.h"
#include "model/attention/attention.h"
#include "model/attention/combiner/pool_layer.h"
#include "model/attention/combiner/row_key.h"

namespace stipple::model {

class CombinerAttention final : public Attention {
 public:
  /// One softmax.
  struct Member {
    kernels::Summaries summaries;
    View<float> lse;  // [B, H, N]
    RealView o;       // [B, H, N, D]  the attention's own where there is one member
    RealView key;     // [B, H, R, D]  of regions: the summaries', or projected
    RowKey::Saved row_key;
  };
  struct Saved final : Attention::Saved {
    std::array<Member, 2> members;  ///< the second is of a mixture that averages
  };

  CombinerAttention(const AttentionConfig&, ParameterStore&, FactTable&, const AttentionShape&);
  static AttentionTraits traits(const AttentionConfig&);
  static void validate(const AttentionConfig&);

  std::unique_ptr<Attention::Saved> make_saved() const override;
  /// Regions are summarised and scored by what tokens are: a region has no place.
  bool reads_content() const override { return true; }
  bool reads_input() const override { return row_key_.has_value(); }
  /// `fixed`, where time goes forward; others see all tokens anew.
  std::unique_ptr<AttentionCache> make_cache(Arena&, const Stream&, int64_t longest) const override;

 private:
  void do_forward(Context&, const AttentionInputs&, RealView out, Attention::Saved&) const override;
  void do_decode(Context&, const AttentionInputs&, RealView out, AttentionCache&) const override;
  void do_backward(Context&, const AttentionInputs&, ConstRealView out, ConstRealView dout,
                   const Attention::Saved&, const AttentionGrads&) const override;

  kernels::Partition partition(int layer, int64_t length, size_t member) const;
  kernels::RegionMass mass() const;
  kernels::CombineFacts facts_of(Context&) const;
  void forward_member(Context&, const AttentionInputs&, const kernels::Partition&, Member&) const;
  void backward_member(Context&, const AttentionInputs&, const kernels::Partition&,
                       ConstRealView dout, const Member&, const AttentionGrads&) const;
  void project_backward(Context&, const kernels::Partition&, const Member&, RealView dkey,
                        RealView dvalue, const AttentionGrads&) const;
  void summarize_backward(Context&, const AttentionInputs&, const kernels::Partition&,
                          const Member&, ConstRealView dkey, ConstRealView dvalue,
                          const AttentionGrads&) const;

  /// Facts about what queries see, by head, summed over real queries.
  struct SeenFacts {
    FactId direct_weight;   // double [H]
    FactId region_entropy;  // double [H]
    FactId queries;         // int64_t [H]
    FactId with_regions;    // int64_t [H]
  };
  static SeenFacts declare(FactTable&, int64_t heads);

  const ParameterStore& store_;
  CombinerConfig config_;
  int64_t heads_, head_dim_;
  bool is_causal_;
  int64_t columns_;  ///< of the grid
  float scale_;
  double direct_dropout_;
  SeenFacts facts_;
  PoolLayer query_pool_, key_pool_;
  std::optional<RowKey> row_key_;
  ParamId mass_;  ///< [H], where mass_bias is learned
};

}  // namespace stipple::model
