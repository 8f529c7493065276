// SPDX-License-Identifier: Apache-2.0
// A moment of a run, as it is to be saved.
#pragma once

#include <vector>

#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/tensor_ref.h"

namespace stipple::trainer {

/// Holds the scalars; what `tensors` refer to must stay as it is until they are written.
struct Snapshot {
  CheckpointMeta meta = {};
  std::vector<TensorRef> tensors = {};
};

}  // namespace stipple::trainer
