// SPDX-License-Identifier: Apache-2.0
// Running sums over the lanes of a warp, with CUB's names.
#pragma once

#include <source_location>

#include "cuda_on_cpu/kernel.h"
#include "cuda_on_cpu/warp.h"

namespace cub {

template <class T, int kLogicalLanes = cuda_on_cpu::kLanes>
class WarpScan {
  static_assert(kLogicalLanes == cuda_on_cpu::kLanes, "only whole warps are in use");
  using Where = std::source_location;

 public:
  struct TempStorage {};

  explicit WarpScan(TempStorage&) {}

  void InclusiveSum(T in, T& out, T& total, Where where = Where::current()) {
    const T own = in;
    out = sum_below(own, total, where) + own;
  }
  void InclusiveSum(T in, T& out, Where where = Where::current()) {
    T total;
    InclusiveSum(in, out, total, where);
  }
  void ExclusiveSum(T in, T& out, T& total, Where where = Where::current()) {
    out = sum_below(in, total, where);
  }
  void ExclusiveSum(T in, T& out, Where where = Where::current()) {
    T total;
    ExclusiveSum(in, out, total, where);
  }

 private:
  struct Operand {
    T value, below, total;
  };
  static void scan(void* const* operands) {
    T sum{};
    for (int lane = 0; lane < cuda_on_cpu::kLanes; ++lane) {
      auto& own = *static_cast<Operand*>(operands[lane]);
      own.below = sum;
      sum = sum + own.value;
    }
    for (int lane = 0; lane < cuda_on_cpu::kLanes; ++lane) {
      static_cast<Operand*>(operands[lane])->total = sum;
    }
  }
  static T sum_below(T own, T& total, const Where& where) {
    Operand operand{own, T{}, T{}};
    cuda_on_cpu::warp_wide(scan, &operand, where);
    total = operand.total;
    return operand.below;
  }
};

}  // namespace cub
