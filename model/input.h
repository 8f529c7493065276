// SPDX-License-Identifier: Apache-2.0
// One leaf on the device.
#pragma once

#include "core/leaf.h"
#include "core/view.h"

namespace stipple::model {

template <class T>
using ConstView = View<const T>;

struct Input : LeafArrays<ConstView> {
  float batch_share =
      1.0f;  ///< this leaf's part of the global batch, by rows: weights of regularisers
};

}  // namespace stipple::model
