// SPDX-License-Identifier: Apache-2.0
// One leaf on the device.
#pragma once

#include "core/view.h"

namespace stipple::model {

struct Input {
  View<const int32_t> ids;       // [B, N]
  View<const uint8_t> mask;      // [B, N]  1 on tokens
  View<const int32_t> labels;    // [B] or [B, N]; -1: none
  View<const uint32_t> samples;  // [B]  global sample ids
  float loss_scale = 1.0f;       ///< 1 / labels of the global batch
  float batch_share =
      1.0f;  ///< this leaf's part of the global batch, by rows: weights of regularisers
};

}  // namespace stipple::model
