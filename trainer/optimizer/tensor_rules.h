// SPDX-License-Identifier: Apache-2.0
// What the optimizer does with each tensor of the model: what modules say, unless
// optimizer.groups names the tensor, and optimizer.layer_decay by its depth.
#pragma once

#include <string>
#include <vector>

#include "core/range.h"
#include "model/parameter_store.h"
#include "trainer/optimizer/optimizer_config.h"

namespace stipple::trainer {

struct TensorRule {
  std::string name;
  Range range;              ///< in the flat arena, padding excluded
  double weight_decay = 0;  ///< 0: exempt
  double rate_factor = 1;   ///< of the learning rate
  bool is_frozen = false;   ///< never moves
  std::string group{};      ///< of optimizer.groups; empty: none

  /// But for name and range.
  bool is_alike(const TensorRule& other) const {
    return weight_decay == other.weight_decay && rate_factor == other.rate_factor &&
           is_frozen == other.is_frozen;
  }
};

/// Of every tensor, in the order of the arena. What is not learned is frozen. ConfigError for a
/// pattern that matches nothing, for a tensor that two groups match, and where nothing would learn.
std::vector<TensorRule> tensor_rules(const OptimizerConfig&, const model::ParameterStore&);

/// How far below the top a tensor stands: 0 for the head and what follows the encoder, 1 for its
/// last block, and so on down to the embedding.
int64_t depth_of(const std::string& name, int64_t num_layers);

/// Parts of the model, from the bottom (the embedding, then blocks), of which nothing learns.
int64_t frozen_stages(const std::vector<TensorRule>&);

/// Lines for people: what is frozen, and each group. Empty where all is as modules say.
std::vector<std::string> notes_of(const OptimizerConfig&, const std::vector<TensorRule>&);

}  // namespace stipple::trainer
