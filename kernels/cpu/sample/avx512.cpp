// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/sample/vector.h"

namespace stipple::kernels::cpu {

const SampleKernels kSampleAvx512 = avx512::kSampleKernels;
const SampleKernels kSampleAvx512Vnni = avx512::kSampleKernelsVnni;

}  // namespace stipple::kernels::cpu
