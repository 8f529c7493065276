// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/combine/attention_simd.h"
#include "kernels/cpu/combine/summaries_simd.h"

namespace stipple::kernels::cpu::avx2 {

const CombineBodies kCombine = {summarize, summarize_backward, forward, backward};

}  // namespace stipple::kernels::cpu::avx2
