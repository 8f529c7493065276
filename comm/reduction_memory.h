// SPDX-License-Identifier: Apache-2.0
// Where a reducer's arrays are and its sums run: host memory at once, or a device in the order of
// the stream in ReducerOptions.
#pragma once

#include "comm/gradient_reducer.h"
#include "core/buffer.h"
#include "core/stream.h"

namespace stipple::comm {

class ReductionMemory {
 public:
  /// Error for a CUDA stream without ReducerOptions::add.
  explicit ReductionMemory(const ReducerOptions&);

  Device device() const { return device_; }
  bool is_cuda() const { return device_.type == DeviceType::kCuda; }
  /// CUDA only.
  const Stream& stream() const { return *stream_; }

  void fill_zero(const Buffer&) const;
  void copy(float* to, const float* from, int64_t numel) const;
  /// out = left + right; out may be left or right itself.
  void add(float* out, const float* left, const float* right, int64_t numel) const;
  /// Several sums over the same elements go over pieces this long: on the CPU so that intermediate
  /// sums stay in the first caches (16 KiB each), on a GPU in one piece.
  int64_t piece_numel() const;

 private:
  const Stream* stream_;
  Device device_;
  DeviceAddition add_;
};

}  // namespace stipple::comm
