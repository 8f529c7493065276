// SPDX-License-Identifier: Apache-2.0
// Keys of rows for the variant `axial`, by a projection of what a token there finds in its row:
// key = out(norm(x + in(found))), all heads side by side, x being the input of the sub-layer. Found
// are the row's values by the token's weights (`proj`) or its keys (`wsum_proj`).
//
// Saves 2 width activations and a float more, and the projections', per token.
#pragma once

#include <string>

#include "kernels/combine.h"
#include "model/context.h"
#include "model/layers/layernorm.h"
#include "model/layers/linear.h"
#include "model/parameter_store.h"

namespace stipple::model {

class RowKey {
 public:
  struct Saved {
    Linear::Saved in, out;
    LayerNorm::Saved norm;
  };

  /// Declares `name`.in, `name`.norm and `name`.out of `width` channels.
  RowKey(ParameterStore& store, const std::string& name, int64_t width);

  /// keys [B, H, R, D] of regions from what is found [B, H, R, D] and x [B, N, width].
  void forward(Context&, ConstRealView x, ConstRealView found, const kernels::Partition&,
               const kernels::Summaries&, RealView keys, Saved&) const;
  /// dfound [B, H, R, D] +=, dx +=.
  void backward(Context&, const Saved&, ConstRealView dkeys, const kernels::Partition&,
                const kernels::Summaries&, RealView dfound, RealView dx) const;

 private:
  Linear in_;
  LayerNorm norm_;
  Linear out_;
};

}  // namespace stipple::model
