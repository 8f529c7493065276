// SPDX-License-Identifier: Apache-2.0
// The kernels of attend_tiles_backward for operands rounded to bf16.
#include "kernels/cuda/attend_tiles_backward_pass.cuh"

namespace stipple::kernels::cuda::tiles_backward {

using Owned = OwnedSide<bf16>;
template void launch_passes<bf16, Owner::kQuery, 16>(const Stream&, Owned, const Common&, int64_t);
template void launch_passes<bf16, Owner::kKey, 16>(const Stream&, Owned, const Common&, int64_t);
template void launch_passes<bf16, Owner::kQuery, 32>(const Stream&, Owned, const Common&, int64_t);
template void launch_passes<bf16, Owner::kKey, 32>(const Stream&, Owned, const Common&, int64_t);
template void launch_passes<bf16, Owner::kQuery, 64>(const Stream&, Owned, const Common&, int64_t);
template void launch_passes<bf16, Owner::kKey, 64>(const Stream&, Owned, const Common&, int64_t);
template void launch_passes<bf16, Owner::kQuery, 128>(const Stream&, Owned, const Common&, int64_t);
template void launch_passes<bf16, Owner::kKey, 128>(const Stream&, Owned, const Common&, int64_t);

}  // namespace stipple::kernels::cuda::tiles_backward
