// SPDX-License-Identifier: Apache-2.0
// The kernels of attend_tiles_backward for arrays stored as fp32: operands are sums of three bf16
// parts.
#include "kernels/cuda/attend/tiles_backward_pass.cuh"

namespace stipple::kernels::cuda::tiles_backward {

template void launch_passes<float>(const Stream&, Owner, OwnedSide<float>, const Common&);

}  // namespace stipple::kernels::cuda::tiles_backward
