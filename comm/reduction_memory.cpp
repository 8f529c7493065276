// SPDX-License-Identifier: Apache-2.0
#include "comm/reduction_memory.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "core/copy.h"
#include "core/error.h"

namespace stipple::comm {

ReductionMemory::ReductionMemory(const ReducerOptions& options)
    : stream_(options.stream),
      device_(options.stream == nullptr ? kCpuDevice : options.stream->device()),
      add_(options.add) {
  STIPPLE_CHECK(!is_cuda() || add_ != nullptr,
                "gradient reducer: sums in device memory need ReducerOptions::add");
}

void ReductionMemory::fill_zero(const Buffer& buffer) const {
  if (is_cuda()) {
    fill_zero_bytes(*stream_, buffer.data(), buffer.bytes());
  } else {
    std::memset(buffer.data(), 0, buffer.bytes());
  }
}

void ReductionMemory::copy(float* to, const float* from, int64_t numel) const {
  if (is_cuda()) {
    copy_bytes(*stream_, to, from, static_cast<size_t>(numel) * sizeof(float));
  } else {
    std::copy_n(from, numel, to);
  }
}

void ReductionMemory::add(float* out, const float* left, const float* right, int64_t numel) const {
  if (is_cuda()) return add_(out, left, right, numel);
#pragma GCC ivdep
  for (int64_t i = 0; i < numel; ++i) out[i] = left[i] + right[i];
}

int64_t ReductionMemory::piece_numel() const {
  return is_cuda() ? std::numeric_limits<int64_t>::max() : 4096;
}

}  // namespace stipple::comm
