// SPDX-License-Identifier: Apache-2.0
#include "kernels/group_occupancy.h"

#include <algorithm>

#include "kernels/math/group_occupancy.h"
#include "kernels/predict.h"

namespace stipple::kernels::cpu {
namespace {

/// Adds the tokens of problem p to the sizes of their groups.
void add_sizes(View<const int32_t> groups, int64_t p, int32_t* sizes) {
  const int64_t slots = groups.shape[2] * groups.shape[3];
  const int32_t* own = groups.data + p * slots;
  for (int64_t e = 0; e < slots; ++e)
    if (own[e] != kNoGroup) ++sizes[own[e]];
}

}  // namespace

void group_occupancy(const Stream& stream, const GroupOccupancy& args) {
  const Arena::Scope scope(*args.scratch);
  const int64_t batch = args.query_groups.shape[0], heads = args.query_groups.shape[1];
  const View<int32_t> sizes =
      args.scratch->alloc<int32_t>({int64_t{stream.threads()}, args.num_groups});
  stream.parallel_for(heads, [&](int64_t h, int worker) {
    int32_t* own = sizes.at(worker).data;
    args.entropy[h] = 0;
    args.sequences[h] = 0;
    for (int64_t b = 0; b < batch; ++b) {
      std::fill_n(own, args.num_groups, 0);
      add_sizes(args.query_groups, b * heads + h, own);
      add_sizes(args.key_groups, b * heads + h, own);
      const double entropy = math::occupancy(own, args.num_groups);
      if (entropy < 0) continue;
      args.entropy[h] += entropy;
      ++args.sequences[h];
    }
  });
}

}  // namespace stipple::kernels::cpu
