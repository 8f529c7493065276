// SPDX-License-Identifier: Apache-2.0
// A tensor of a run where it lies in host memory, by its name in checkpoints.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "core/range.h"
#include "core/shape.h"

namespace stipple::trainer {

/// Named "parameter/<name>", "first_moment/<name>" or "second_moment/<name>"; the part before the
/// first '/' is its kind. Either every rank owns the whole, with the same bits, or each element is
/// owned by one rank.
struct TensorRef {
  std::string name;
  Shape shape;            ///< of the whole
  std::span<float> data;  ///< the elements that this rank owns
  int64_t begin = 0;      ///< the first of them, in the flattened tensor

  Range owned() const { return {begin, begin + static_cast<int64_t>(data.size())}; }
  bool is_whole() const { return owned() == Range{0, shape.numel()}; }
};

}  // namespace stipple::trainer
