// SPDX-License-Identifier: Apache-2.0
// The one place that turns a device into a backend call. Used at the end of an operation's checked
// front (kernels/*.cpp):
//
//   void layernorm(const Stream& stream, const LayerNorm& args) {
//     STIPPLE_CHECK_SHAPE("layernorm", args.y, (args.x.shape));
//     STIPPLE_DISPATCH(stream, layernorm, args);
//   }
#pragma once

#include "core/error.h"
#include "core/stream.h"

// The only place that asks how the program was built.
#if STIPPLE_HAS_CUDA
#define STIPPLE_CUDA_CALL(stream, op, ...) return cuda::op(stream, __VA_ARGS__)
#else
#define STIPPLE_CUDA_CALL(stream, op, ...) throw Error(#op ": this build has no CUDA backend")
#endif

#define STIPPLE_DISPATCH(stream, op, ...)         \
  switch ((stream).device().type) {               \
    case DeviceType::kMeta:                       \
      return;                                     \
    case DeviceType::kCpu:                        \
      return cpu::op(stream, __VA_ARGS__);        \
    case DeviceType::kCuda:                       \
      STIPPLE_CUDA_CALL(stream, op, __VA_ARGS__); \
  }
