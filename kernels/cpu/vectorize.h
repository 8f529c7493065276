// SPDX-License-Identifier: Apache-2.0
// Runs a plain loop compiled once per instruction set, for loops that the compiler vectorises by
// itself. Loops that need intrinsics have a file per instruction set instead (attend/avx512.cpp).
//
//   STIPPLE_VECTOR_BODY void scale(float* x, int64_t n, float factor) { for (...) x[i] *= factor; }
//   vectorized<scale>(x, n, 2.0f);
#pragma once

#include "core/cpu/isa.h"

// Only what is inlined into the callers below is compiled for their instruction sets.
#define STIPPLE_VECTOR_BODY [[gnu::always_inline]] inline

namespace stipple::kernels::cpu {

template <auto body, class... Args>
[[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")]] void
run_avx512(Args... args) {
  body(args...);
}

template <auto body, class... Args>
[[gnu::target("avx2,fma")]] void run_avx2(Args... args) {
  body(args...);
}

template <auto body, class... Args>
void vectorized(Args... args) {
  switch (stipple::cpu::isa()) {
    case stipple::cpu::Isa::kAvx512:
      return run_avx512<body>(args...);
    case stipple::cpu::Isa::kAvx2:
      return run_avx2<body>(args...);
    case stipple::cpu::Isa::kScalar:
      return body(args...);
  }
}

}  // namespace stipple::kernels::cpu
