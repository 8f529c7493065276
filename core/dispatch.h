// SPDX-License-Identifier: Apache-2.0
// The one place that turns a device into a backend call. Used at the end of an operation's checked
// front (kernels/*.cpp):
//
//   void layernorm(const Stream& stream, const LayerNorm& args) {
//     STIPPLE_CHECK_SHAPE("layernorm", args.y, (args.x.shape));
//     STIPPLE_DISPATCH(stream, layernorm, args);
//   }
//
// On meta an operation whose arguments have a scratch arena runs the body of the planned device, on
// a stream on which parallel_for, kernel launches, copies and fills do nothing: so a plan counts
// what is taken, by the lines that take it. What a body does besides (library calls, loops over
// memory on the host) it leaves out where stream.is_plan(). Without a scratch arena there is nothing
// to do on meta.
#pragma once

#include "core/error.h"
#include "core/stream.h"

// The only place that asks how the program was built.
#if STIPPLE_HAS_CUDA
#define STIPPLE_CUDA_CALL(stream, op, args) return cuda::op(stream, args)
#else
#define STIPPLE_CUDA_CALL(stream, op, args) throw Error(#op ": this build has no CUDA backend")
#endif

#define STIPPLE_DISPATCH(stream, op, args)                        \
  switch (::stipple::detail::body_for((stream).device(), args)) { \
    case DeviceType::kMeta:                                       \
      return;                                                     \
    case DeviceType::kCpu:                                        \
      return cpu::op(stream, args);                               \
    case DeviceType::kCuda:                                       \
      STIPPLE_CUDA_CALL(stream, op, args);                        \
  }

namespace stipple::detail {

/// Whose body runs; kMeta: nobody's.
template <class Args>
DeviceType body_for(Device device, const Args&) {
  constexpr bool kTakesScratch = requires(const Args& args) { args.scratch; };
  return kTakesScratch ? device.backend() : device.type;
}

}  // namespace stipple::detail
