// SPDX-License-Identifier: Apache-2.0
// Names the work that a scope enqueues, for CUDA's profilers (NVTX). Costs a nanosecond without
// one, nothing without CUDA.
#pragma once

#include "core/cuda/runtime.h"

namespace stipple {

class ProfilerRange {
 public:
  explicit ProfilerRange(const char* name) { cuda::push_range(name); }
  ~ProfilerRange() { cuda::pop_range(); }
  ProfilerRange(const ProfilerRange&) = delete;
  ProfilerRange& operator=(const ProfilerRange&) = delete;
};

}  // namespace stipple
