// SPDX-License-Identifier: Apache-2.0
// Tensors of a model that are not learned but fitted besides (`stipple sparsefinder fit`), as a
// safetensors file that says for which sort of model.
#pragma once

#include <string>

#include "comm/communicator.h"
#include "core/stream.h"
#include "data/dataset.h"
#include "model/parameter_store.h"
#include "trainer/config/config.h"

namespace stipple::trainer {

/// Fills what `parameters` has that is not learned from the file of attention.sparsefinder.fitted, where
/// there is one. ConfigError, naming the key, where it cannot be read, is of another sort of model, or
/// holds what is no number. Collective.
void put_fitted(comm::Communicator&, const Config&, const data::TaskInfo&, const Stream&,
                const model::ParameterStore& parameters);

/// Writes it, from host memory, in one step: a file that was there is whole or replaced. ConfigError
/// where that was none of these.
void write_fitted(const std::string& path, const Config&, const data::TaskInfo&,
                  const model::ParameterStore& parameters);

}  // namespace stipple::trainer
