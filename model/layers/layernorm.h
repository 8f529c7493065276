// SPDX-License-Identifier: Apache-2.0
// Layer normalisation with weight and bias over the last dimension. Saves a view of x and two
// floats per row.
#pragma once

#include <string>

#include "model/context.h"
#include "model/parameter_store.h"

namespace stipple::model {

class LayerNorm {
 public:
  struct Saved {
    View<const float> x;     // [..., width]
    View<float> mean, rstd;  // [rows]
  };

  /// Declares `name`.weight = 1 and `name`.bias = 0, both [width].
  LayerNorm(ParameterStore& store, const std::string& name, int64_t width, double eps = 1e-5);

  /// x must stay untouched until backward.
  void forward(Context&, View<const float> x, RealView y, Saved&) const;
  /// dx may alias dy and is stored alike.
  void backward(Context&, const Saved&, ConstRealView dy, RealView dx) const;

  ParamId first() const { return weight_; }
  ParamId last() const { return bias_; }

 private:
  const ParameterStore& store_;
  int64_t width_;
  float eps_;
  ParamId weight_;
  ParamId bias_;
};

}  // namespace stipple::model
