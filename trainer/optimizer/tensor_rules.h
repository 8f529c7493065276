// SPDX-License-Identifier: Apache-2.0
// What the optimizer does with each tensor of the model.
#pragma once

#include <vector>

#include "core/range.h"
#include "model/parameter_store.h"
#include "trainer/optimizer/optimizer_config.h"

namespace stipple::trainer {

struct TensorRule {
  Range range;              ///< in the flat arena, padding excluded
  double weight_decay = 0;  ///< 0: exempt
  bool is_frozen = false;   ///< never moves

  /// But for the range.
  bool is_alike(const TensorRule& other) const {
    return weight_decay == other.weight_decay && is_frozen == other.is_frozen;
  }
};

/// Of every tensor, in the order of the arena. What is not learned is frozen.
std::vector<TensorRule> tensor_rules(const OptimizerConfig&, const model::ParameterStore&);

}  // namespace stipple::trainer
