// SPDX-License-Identifier: Apache-2.0
// A tensor of a run where it lies, by its name in checkpoints.
#pragma once

#include <span>
#include <string>

#include "core/shape.h"

namespace stipple::trainer {

/// A tensor of the run, in host memory and equal on every rank. Named "parameter/<name>",
/// "first_moment/<name>" or "second_moment/<name>"; the part before the first '/' is its kind.
struct TensorRef {
  std::string name;
  Shape shape;
  std::span<float> data;
};

}  // namespace stipple::trainer
