// SPDX-License-Identifier: Apache-2.0
// Tensors of a model that are not learned but fitted besides (`stipple sparsefinder fit`), as a
// safetensors file.
#pragma once

#include <string>

#include "core/stream.h"
#include "model/parameter_store.h"
#include "trainer/checkpoint/safetensors.h"
#include "trainer/config/config.h"

namespace stipple::trainer {

/// Fills what `parameters` has that is not learned from the file of attention.sparsefinder.fitted, where
/// there is one. ConfigError, naming the key, where it cannot be read or is of another model.
void put_fitted(const Config&, const Stream&, const model::ParameterStore& parameters);

/// Writes it, from host memory, in one step: a file that was there is whole or replaced.
void write_fitted(const std::string& path, const model::ParameterStore& parameters,
                  const TensorMetadata& about);

}  // namespace stipple::trainer
