// SPDX-License-Identifier: Apache-2.0
// STIPPLE_HD marks a function that kernels on a GPU may call, too.
#pragma once

#if defined(__CUDACC__)
#define STIPPLE_HD __host__ __device__
#else
#define STIPPLE_HD
#endif
