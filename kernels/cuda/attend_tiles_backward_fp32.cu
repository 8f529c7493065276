// SPDX-License-Identifier: Apache-2.0
// The kernels of attend_tiles_backward for fp32 operands, each the sum of three bf16 parts.
#include "kernels/cuda/attend_tiles_backward_pass.cuh"

namespace stipple::kernels::cuda::tiles_backward {

using Owned = OwnedSide<float>;
template void launch_passes<float, Owner::kQuery, 16>(const Stream&, Owned, const Common&, int64_t);
template void launch_passes<float, Owner::kKey, 16>(const Stream&, Owned, const Common&, int64_t);
template void launch_passes<float, Owner::kQuery, 32>(const Stream&, Owned, const Common&, int64_t);
template void launch_passes<float, Owner::kKey, 32>(const Stream&, Owned, const Common&, int64_t);
template void launch_passes<float, Owner::kQuery, 64>(const Stream&, Owned, const Common&, int64_t);
template void launch_passes<float, Owner::kKey, 64>(const Stream&, Owned, const Common&, int64_t);
template void launch_passes<float, Owner::kQuery, 128>(const Stream&, Owned, const Common&,
                                                       int64_t);
template void launch_passes<float, Owner::kKey, 128>(const Stream&, Owned, const Common&, int64_t);

}  // namespace stipple::kernels::cuda::tiles_backward
