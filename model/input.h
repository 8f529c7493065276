// SPDX-License-Identifier: Apache-2.0
// One leaf on the device.
#pragma once

#include <optional>

#include "core/leaf.h"
#include "core/view.h"

namespace stipple::model {

template <class T>
using ConstView = View<const T>;

struct Input : LeafArrays<ConstView> {
  float batch_share =
      1.0f;  ///< this leaf's part of the global batch, by rows: weights of regularisers
  /// Labels that are some, where whoever enqueues the work may know: none in a plan, which is for as
  /// many as there can be, and in a captured step, which is replayed with other leaves.
  std::optional<int64_t> num_labels = {};
};

}  // namespace stipple::model
