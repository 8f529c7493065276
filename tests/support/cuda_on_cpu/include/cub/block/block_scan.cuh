// SPDX-License-Identifier: Apache-2.0
// Running sums over the threads of a block, with CUB's names. As there, the storage may be used
// again only behind a barrier; here a thread that does not wait for one is caught.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>

#include "cuda_on_cpu/kernel.h"

namespace cub {

enum BlockScanAlgorithm { BLOCK_SCAN_RAKING, BLOCK_SCAN_RAKING_MEMOIZE, BLOCK_SCAN_WARP_SCANS };

template <class T, int kThreadsX, BlockScanAlgorithm = BLOCK_SCAN_RAKING, int kThreadsY = 1,
          int kThreadsZ = 1>
class BlockScan {
  static constexpr int kThreads = kThreadsX * kThreadsY * kThreadsZ;
  using Where = std::source_location;

 public:
  struct TempStorage {
    T values[size_t{kThreads}];
    uint64_t in_use;  ///< kInUse: the numbers below are ours
    int came, left;   ///< threads, of the scan that is under way or was the last
  };

  explicit BlockScan(TempStorage& storage) : storage_(storage) {}

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

  template <size_t kCount>
  void InclusiveSum(T (&in)[kCount], T (&out)[kCount], T& total, Where where = Where::current()) {
    T sum = sum_below(sum_of(in), total, where);
    for (size_t i = 0; i < kCount; ++i) out[i] = sum = sum + in[i];
  }
  template <size_t kCount>
  void InclusiveSum(T (&in)[kCount], T (&out)[kCount], Where where = Where::current()) {
    T total;
    InclusiveSum(in, out, total, where);
  }
  template <size_t kCount>
  void ExclusiveSum(T (&in)[kCount], T (&out)[kCount], T& total, Where where = Where::current()) {
    T sum = sum_below(sum_of(in), total, where);
    for (size_t i = 0; i < kCount; ++i) {
      const T own = in[i];
      out[i] = sum;
      sum = sum + own;
    }
  }
  template <size_t kCount>
  void ExclusiveSum(T (&in)[kCount], T (&out)[kCount], Where where = Where::current()) {
    T total;
    ExclusiveSum(in, out, total, where);
  }

 private:
  static constexpr uint64_t kInUse = 0xB10C5CA4B10C5CA4u;

  template <size_t kCount>
  static T sum_of(const T (&values)[kCount]) {
    T sum{};
    for (const T& value : values) sum = sum + value;
    return sum;
  }

  void come() {
    if (storage_.in_use != kInUse || storage_.came == kThreads) {
      if (storage_.in_use == kInUse && storage_.left < kThreads) {
        cuda_on_cpu::fail("a scan's TempStorage is used again without a barrier in between");
      }
      storage_.in_use = kInUse;
      storage_.came = storage_.left = 0;
    }
    ++storage_.came;
  }

  /// Between its only barrier and its end a thread reads what others would overwrite.
  T sum_below(T own, T& total, const Where& where) {
    if (blockDim.x != kThreadsX || blockDim.y != kThreadsY || blockDim.z != kThreadsZ) {
      cuda_on_cpu::fail("a block of another shape than its BlockScan");
    }
    const auto thread =
        static_cast<int>((threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x);
    come();
    storage_.values[thread] = own;
    cuda_on_cpu::wait_at_barrier(where);
    if (storage_.came != kThreads) {
      cuda_on_cpu::fail("a scan of the block that not all threads came to");
    }
    T below{};
    total = T{};
    for (int i = 0; i < kThreads; ++i) {
      if (i == thread) below = total;
      total = total + storage_.values[i];
    }
    ++storage_.left;
    return below;
  }

  TempStorage& storage_;
};

}  // namespace cub
