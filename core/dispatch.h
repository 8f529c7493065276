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

// An operation that takes no scratch: nothing is to be done on meta.
#define STIPPLE_DISPATCH(stream, op, ...)         \
  switch ((stream).device().type) {               \
    case DeviceType::kMeta:                       \
      return;                                     \
    case DeviceType::kCpu:                        \
      return cpu::op(stream, __VA_ARGS__);        \
    case DeviceType::kCuda:                       \
      STIPPLE_CUDA_CALL(stream, op, __VA_ARGS__); \
  }

// An operation whose body takes scratch from an arena: on meta the body of the planned device runs,
// on a stream on which parallel_for and kernel launches do nothing. So a plan counts what is taken,
// by the same lines. What a body does besides (library calls, loops over memory on the host) it
// leaves out where stream.is_plan().
#define STIPPLE_DISPATCH_WITH_SCRATCH(stream, op, args) \
  switch ((stream).device().backend()) {                \
    case DeviceType::kMeta:                             \
      return;                                           \
    case DeviceType::kCpu:                              \
      return cpu::op(stream, args);                     \
    case DeviceType::kCuda:                             \
      STIPPLE_CUDA_CALL(stream, op, args);              \
  }
