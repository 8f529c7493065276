// SPDX-License-Identifier: Apache-2.0
// Every token sees itself: out = v. No parameters, nothing saved. The peer that says what a task is
// worth without attention.
#pragma once

#include "model/attention/attention.h"

namespace stipple::model {

class NoneAttention final : public Attention {
 public:
  struct Saved final : Attention::Saved {};

  NoneAttention(const AttentionConfig&, ParameterStore&, FactTable&, const AttentionShape&) {}
  std::unique_ptr<Attention::Saved> make_saved() const override {
    return std::make_unique<Saved>();
  }

 private:
  void do_forward(Context&, const AttentionInputs&, RealView out, Attention::Saved&) const override;
  void do_backward(Context&, const AttentionInputs&, ConstRealView out, ConstRealView dout,
                   const Attention::Saved&, const AttentionGrads&) const override;
};

}  // namespace stipple::model
