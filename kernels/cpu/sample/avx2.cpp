// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/sample/vector.h"

namespace stipple::kernels::cpu {

const SampleKernels kSampleAvx2 = avx2::kSampleKernels;
const SampleKernels kSampleAvx2Vnni = avx2::kSampleKernelsVnni;

}  // namespace stipple::kernels::cpu
