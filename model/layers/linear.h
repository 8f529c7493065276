// SPDX-License-Identifier: Apache-2.0
// y = x wᵀ + b over the last dimension of x. Saves a view of x, no memory of its own.
#pragma once

#include <string>

#include "model/context.h"
#include "model/parameter_store.h"

namespace stipple::model {

class Linear {
 public:
  struct Saved {
    ConstRealView x;  // [..., in]
  };

  /// Declares `name`.weight [out, in] and `name`.bias [out], both uniform on +-1/sqrt(in).
  Linear(ParameterStore& store, const std::string& name, int64_t in, int64_t out);

  /// x must stay untouched until backward.
  void forward(Context&, ConstRealView x, RealView y, Saved&) const;
  /// dx empty: the gradient of x is not wanted.
  void backward(Context&, const Saved&, ConstRealView dy, RealView dx) const;

  ParamId first() const { return weight_; }
  ParamId last() const { return bias_; }

 private:
  const ParameterStore& store_;
  int64_t in_;
  int64_t out_;
  ParamId weight_;
  ParamId bias_;
};

}  // namespace stipple::model
