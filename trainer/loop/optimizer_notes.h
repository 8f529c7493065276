// SPDX-License-Identifier: Apache-2.0
// What the optimizer does with the tensors of a configuration's model, in lines for people.
#pragma once

#include <string>
#include <vector>

#include "data/dataset.h"
#include "trainer/config/config.h"

namespace stipple::trainer {

/// Empty where all is as modules say. ConfigError as of tensor_rules().
std::vector<std::string> optimizer_notes(const Config&, const data::TaskInfo&);

}  // namespace stipple::trainer
