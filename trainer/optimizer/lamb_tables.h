// SPDX-License-Identifier: Apache-2.0
// What kernels::lamb reads of the model's tensors, in device memory, and where it writes its ratios.
#pragma once

#include <span>
#include <vector>

#include "core/buffer.h"
#include "core/device.h"
#include "core/view.h"
#include "kernels/lamb.h"
#include "trainer/optimizer/tensor_rules.h"

namespace stipple::trainer {

class LambTables {
 public:
  /// exempt_do_not_adapt: the ratio of tensors without decay is 1.
  LambTables(std::span<const TensorRule>, bool exempt_do_not_adapt, Device);

  View<const kernels::LambTensor> tensors() const { return view<kernels::LambTensor>(tensors_); }
  View<const kernels::LambRun> runs() const { return view<kernels::LambRun>(runs_); }
  View<float> ratios() const { return view<float>(ratios_); }

 private:
  template <class T>
  static View<T> view(const Buffer& buffer) {
    return {reinterpret_cast<T*>(buffer.data()),
            Shape{static_cast<int64_t>(buffer.bytes() / sizeof(T))}};
  }

  Buffer tensors_, runs_, ratios_;
};

}  // namespace stipple::trainer
