// SPDX-License-Identifier: Apache-2.0
// Groups by place: a block a head of a sequence, a thread a token.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/masks.cuh"
#include "kernels/place_groups.h"

namespace stipple::kernels::cuda {
namespace {

constexpr int kPlaceThreads = 128;

struct PlaceInputs {
  int32_t* query_groups;
  int32_t* key_groups;
  const float* draws;
  const uint8_t* mask;
  int64_t heads, n, slots;
  math::PlaceRule rule;
};

__global__ void __launch_bounds__(kPlaceThreads) place_groups_kernel(PlaceInputs in) {
  const int64_t p = blockIdx.x;
  const uint8_t* mask = in.mask == nullptr ? nullptr : in.mask + p / in.heads * in.n;
  const int64_t length =
      count_real<kPlaceThreads>(mask, in.n, reinterpret_cast<int64_t*>(shared_memory()));
  const float draw = in.draws == nullptr ? 0.0f : in.draws[p % in.heads];
  for (int64_t i = threadIdx.x; i < in.n; i += kPlaceThreads) {
    const int64_t first = (p * in.n + i) * in.slots;
    in.rule.write(draw, i, length, in.slots, in.query_groups + first, in.key_groups + first);
  }
}

}  // namespace

void place_groups(const Stream& stream, const PlaceGroups& args) {
  const Shape& shape = args.query_groups.shape;
  if (args.query_groups.numel() == 0) return;
  launch(stream,
         {.grid = blocks_for(shape[0] * shape[1], 1),
          .block = kPlaceThreads,
          .shared_bytes = kPlaceThreads / kWarpSize * sizeof(int64_t)},
         place_groups_kernel,
         PlaceInputs{.query_groups = args.query_groups.data,
                     .key_groups = args.key_groups.data,
                     .draws = args.draws.data,
                     .mask = args.mask.data,
                     .heads = shape[1],
                     .n = shape[2],
                     .slots = shape[3],
                     .rule = args.rule});
}

}  // namespace stipple::kernels::cuda
