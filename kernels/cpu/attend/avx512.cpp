// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/attend/backward_simd.h"
#include "kernels/cpu/attend/forward_simd.h"

namespace stipple::kernels::cpu::avx512 {

const AttendBodies kAttend = {forward, backward, dot};

}  // namespace stipple::kernels::cpu::avx512
