// SPDX-License-Identifier: Apache-2.0
// What regions pool of queries or of keys: these themselves, rectified (relu_ pools), or mapped by a
// matrix and rectified (deepset_ pools). One for queries and one for keys, shared by all heads of a
// layer. Saves nothing: backward maps again.
#pragma once

#include <string>

#include "model/attention/combiner/combiner_config.h"
#include "model/context.h"
#include "model/parameter_store.h"

namespace stipple::model {

class PoolLayer {
 public:
  /// Declares `name`.weight [D, D], uniform on +-1/sqrt(D), for deepset_ pools.
  PoolLayer(ParameterStore& store, const std::string& name, CombinerPool, int64_t head_dim);

  bool is_identity() const { return !rectifies_; }
  /// x [B, H, N, D] mapped, in scratch of the caller's scope; x itself where that is the identity.
  ConstRealView forward(Context&, ConstRealView x) const;
  /// dx += by dy, which is spent. Not for the identity.
  void backward(Context&, ConstRealView x, RealView dy, RealView dx) const;

 private:
  const ParameterStore& store_;
  bool rectifies_;
  bool maps_;
  ParamId weight_;
};

}  // namespace stipple::model
