// SPDX-License-Identifier: Apache-2.0
#include "kernels/place_groups.h"

#include "kernels/cpu/masks.h"

namespace stipple::kernels::cpu {

void place_groups(const Stream& stream, const PlaceGroups& args) {
  const Shape& shape = args.query_groups.shape;
  const int64_t heads = shape[1], n = shape[2], slots = shape[3];
  stream.parallel_for(shape[0] * heads, [&](int64_t p, int) {
    const float draw = args.draws.empty() ? 0.0f : args.draws[p % heads];
    const int64_t length = count_real(mask_row(args.mask, p / heads), n);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t first = (p * n + i) * slots;
      args.rule.write(draw, i, length, slots, args.query_groups.data + first,
                      args.key_groups.data + first);
    }
  });
}

}  // namespace stipple::kernels::cpu
