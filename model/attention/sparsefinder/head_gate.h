// SPDX-License-Identifier: Apache-2.0
// Which heads of a layer that learns its graph beside exact attention (mode=full) have switched to the
// predicted one, for good. Who trains sets it (attention.sparsefinder.gate); a layer reads it in each
// forward, so that checkpoints, which hold it, say all.
//
// Declares name.switched [H]: 1 where a head has switched, at first 0.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "model/context.h"
#include "model/parameter_store.h"

namespace stipple::model {

class HeadGate {
 public:
  /// What its tensors' names end in.
  static constexpr std::string_view kTensor = ".switched";

  static ParamId declare(ParameterStore&, const std::string& name, int64_t heads);
  HeadGate(ParameterStore&, FactTable&, const std::string& name, int64_t heads);

  /// [H], which it tells, too. On CUDA the host waits for the stream; on meta nobody has switched.
  void read(Context&, std::vector<uint8_t>& switched) const;

 private:
  const ParameterStore& store_;
  ParamId switched_;
  FactId fact_;  ///< float [H]
};

}  // namespace stipple::model
