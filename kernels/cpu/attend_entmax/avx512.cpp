// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/attend_entmax/backward_simd.h"
#include "kernels/cpu/attend_entmax/forward_simd.h"

namespace stipple::kernels::cpu::avx512 {

const AttendEntmaxBodies kAttendEntmax = {entmax_forward, entmax_backward};

}  // namespace stipple::kernels::cpu::avx512
