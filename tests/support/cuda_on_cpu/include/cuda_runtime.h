// SPDX-License-Identifier: Apache-2.0
// What nvcc gives to a .cu file without being asked: the qualifiers, the built-in variables, and
// the C mathematics unqualified.
// __noinline__ is missing: libstdc++ uses the word in its own attributes. Write [[gnu::noinline]].
#pragma once

#include <math.h>

#include "cuda_runtime_api.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__ static  // blocks run one after another, so one copy will do
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __forceinline__ inline __attribute__((always_inline))

/// The running thread's. Set by the scheduler at every switch.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
