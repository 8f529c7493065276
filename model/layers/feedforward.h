// SPDX-License-Identifier: Apache-2.0
// width -> hidden, exact GELU, dropout, hidden -> width, dropout. Saves 2 * hidden activations per
// token and a view of x.
#pragma once

#include <string>

#include "model/context.h"
#include "model/layers/dropout.h"
#include "model/layers/linear.h"

namespace stipple::model {

class FeedForward {
 public:
  struct Saved {
    Linear::Saved in, out;
    RealView before_gelu;          // [B, N, hidden]
    View<const uint32_t> samples;  // [B]
  };

  FeedForward(ParameterStore& store, const std::string& name, int64_t width, int64_t hidden,
              double dropout);

  /// x, y [B, N, width]; x must stay untouched until backward.
  void forward(Context&, ConstRealView x, View<const uint32_t> samples, RealView y, Saved&) const;
  /// dx may alias dy.
  void backward(Context&, const Saved&, ConstRealView dy, RealView dx) const;

  ParamId first() const { return in_.first(); }
  ParamId last() const { return out_.last(); }

 private:
  int64_t hidden_;
  Linear in_;
  Linear out_;
  Dropout hidden_dropout_;
  Dropout out_dropout_;
};

}  // namespace stipple::model
