// SPDX-License-Identifier: Apache-2.0
// What fitting Sparsefinder's predictors needs beside the model, at most, for the plan of memory: a
// query may attend to every key, and at the start of training a quarter of all pairs have a weight.
#pragma once

#include <cstddef>

#include "data/dataset.h"
#include "trainer/config/config.h"

namespace stipple::trainer {

/// Bytes of one rank where the device is, to fit attention.sparsefinder.refresh_examples examples of
/// the longest sequences; on CUDA what lies in host memory does not count. `parameters`: of the
/// model, which a fit has once more.
size_t fit_bytes(const Config&, const data::TaskInfo&, int num_ranks, size_t parameters);

}  // namespace stipple::trainer
