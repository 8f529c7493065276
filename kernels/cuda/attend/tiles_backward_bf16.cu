// SPDX-License-Identifier: Apache-2.0
// The kernels of attend_tiles_backward for arrays stored as bf16.
#include "kernels/cuda/attend/tiles_backward_pass.cuh"

namespace stipple::kernels::cuda::tiles_backward {

template void launch_passes<bf16>(const Stream&, Owner, OwnedSide<bf16>, const Common&);

}  // namespace stipple::kernels::cuda::tiles_backward
