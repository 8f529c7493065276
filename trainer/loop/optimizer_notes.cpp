// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/optimizer_notes.h"

#include "model/model.h"
#include "trainer/loop/replica.h"
#include "trainer/optimizer/tensor_rules.h"

namespace stipple::trainer {

std::vector<std::string> optimizer_notes(const Config& config, const data::TaskInfo& info) {
  model::ParameterStore parameters;
  model::FactTable facts(config.model.layers);
  const model::Model model(parameters, facts, config.model, config.attention, model_task(info));
  parameters.allocate(kMetaDevice);
  return notes_of(config.optimizer, tensor_rules(config.optimizer, parameters));
}

}  // namespace stipple::trainer
