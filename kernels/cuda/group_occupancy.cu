// SPDX-License-Identifier: Apache-2.0
// Sizes of groups by atomic additions of integers, a thread a slot of a token; then a thread a head
// adds up its sequences in order: evaluation asks for it, and groups are few.
#include "core/arena.h"
#include "core/copy.h"
#include "kernels/cuda/device.cuh"
#include "kernels/group_occupancy.h"
#include "kernels/math/group_occupancy.h"
#include "kernels/predict.h"

namespace stipple::kernels::cuda {
namespace {

constexpr int kOccupancyThreads = 128;

/// sizes [P, groups] +=
__global__ void __launch_bounds__(kOccupancyThreads)
    add_sizes_kernel(int32_t* sizes, const int32_t* of_slots, int64_t count, int64_t slots,
                     int64_t groups) {
  const int64_t at = thread_of_grid();
  if (at >= count || of_slots[at] == kNoGroup) return;
  atomic_add(sizes + at / slots * groups + of_slots[at], 1);
}

__global__ void __launch_bounds__(kOccupancyThreads)
    occupancy_kernel(double* entropy, int64_t* sequences, const int32_t* sizes, int64_t batch,
                     int64_t heads, int64_t groups) {
  const int64_t h = thread_of_grid();
  if (h >= heads) return;
  double sum = 0;
  int64_t count = 0;
  for (int64_t b = 0; b < batch; ++b) {
    const double own = math::occupancy(sizes + (b * heads + h) * groups, groups);
    if (own < 0) continue;
    sum += own;
    ++count;
  }
  entropy[h] = sum;
  sequences[h] = count;
}

}  // namespace

void group_occupancy(const Stream& stream, const GroupOccupancy& args) {
  const Arena::Scope scope(*args.scratch);
  const int64_t batch = args.query_groups.shape[0], heads = args.query_groups.shape[1];
  const View<int32_t> sizes = args.scratch->alloc<int32_t>({batch * heads, args.num_groups});
  fill_zero(stream, sizes);
  for (const View<const int32_t>& groups : {args.query_groups, args.key_groups}) {
    const int64_t count = groups.numel();
    if (count == 0) continue;
    launch(stream, thread_each(count, kOccupancyThreads), add_sizes_kernel, sizes.data, groups.data,
           count, groups.shape[2] * groups.shape[3], args.num_groups);
  }
  launch(stream, thread_each(heads, kOccupancyThreads), occupancy_kernel, args.entropy.data,
         args.sequences.data, sizes.data, batch, heads, args.num_groups);
}

}  // namespace stipple::kernels::cuda
