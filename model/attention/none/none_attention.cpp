// SPDX-License-Identifier: Apache-2.0
#include "model/attention/none/none_attention.h"

#include "core/copy.h"

namespace stipple::model {

void NoneAttention::do_forward(Context& ctx, const AttentionInputs& in, RealView out,
                               Attention::Saved&) const {
  check_same_storage("attention", {out, in.v});
  copy_bytes(ctx.stream, out.data, in.v.data, in.v.bytes());
}

void NoneAttention::do_backward(Context& ctx, const AttentionInputs&, ConstRealView,
                                ConstRealView dout, const Attention::Saved&,
                                const AttentionGrads& grads) const {
  check_same_storage("attention", {grads.dv, dout});
  copy_bytes(ctx.stream, grads.dv.data, dout.data, dout.bytes());
  fill_zero_bytes(ctx.stream, grads.dq.data, grads.dq.bytes());
  fill_zero_bytes(ctx.stream, grads.dk.data, grads.dk.bytes());
}

}  // namespace stipple::model
