// SPDX-License-Identifier: Apache-2.0
#include "trainer/optimizer/tensor_rules.h"

#include <algorithm>

namespace stipple::trainer {

std::vector<TensorRule> tensor_rules(const OptimizerConfig& config,
                                     const model::ParameterStore& store) {
  std::vector<TensorRule> rules;
  for (const model::ParameterStore::Entry& entry : store.entries()) {
    const bool decays = entry.decay == model::Decay::kYes;
    rules.push_back({.range = entry.range,
                     .weight_decay = decays ? config.weight_decay : 0.0,
                     .is_frozen = !entry.is_learned});
  }
  std::ranges::sort(rules, {}, [](const TensorRule& rule) { return rule.range.begin; });
  return rules;
}

}  // namespace stipple::trainer
