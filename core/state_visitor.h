// SPDX-License-Identifier: Apache-2.0
// What of a component outlives the process, said by the component itself and by name:
//
//   void Counter::describe_state(StateVisitor& v) {
//     v.tensor("counter/sums", sums_);
//     v.count("counter/steps", steps_);
//   }
//
// The same walk saves and restores: a visitor reads the values or gives them others. Names are
// unique in a run and the same on every rank, as are counts and numbers. Visitors that save and
// restore: trainer/checkpoint/.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "core/function_ref.h"
#include "core/range.h"
#include "core/view.h"

namespace stipple {

class StateVisitor {
 public:
  virtual ~StateVisitor() = default;

  /// `values` are the elements `owned` of the flattened tensor of this shape, in memory of the
  /// component's device. Either every rank owns the whole, and has the same bits, or each element
  /// is owned by one rank.
  virtual void tensor(std::string_view name, const Shape& shape, View<float> values,
                      Range owned) = 0;
  /// All of it, on every rank.
  void tensor(std::string_view name, View<float> whole) {
    tensor(name, whole.shape, whole, {0, whole.numel()});
  }
  virtual void count(std::string_view name, int64_t& value) = 0;
  virtual void number(std::string_view name, double& value) = 0;
  virtual void numbers(std::string_view name, std::vector<double>& values) = 0;  ///< of any length
};

using DescribeState = FunctionRef<void(StateVisitor&)>;

}  // namespace stipple
