// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/entmax/rows_simd.h"

namespace stipple::kernels::cpu::avx512 {

const EntmaxBodies kEntmax = {entmax_row, entmax_backward_row};

}  // namespace stipple::kernels::cpu::avx512
