// SPDX-License-Identifier: Apache-2.0
#include "kernels/mips.h"

#include <algorithm>

#include "kernels/cpu/masks.h"
#include "kernels/math/mips.h"

namespace stipple::kernels::cpu {

void mips_tokens(const Stream& stream, const MipsTokens& args) {
  const Shape& shape = args.x.shape;
  const int64_t heads = shape[1], n = shape[2], d = shape[3];
  const View<const float> x = args.x.floats();
  stream.parallel_for(shape[0] * heads, [&](int64_t p, int) {
    const uint8_t* mask = mask_row(args.mask, p / heads);
    const auto row = [&](int64_t i) { return x.data + (p * n + i) * d; };
    float largest = 0.0f;
    for (int64_t i = 0; args.are_keys && i < n; ++i)
      if (is_real(mask, i)) largest = std::max(largest, math::squared_length(row(i), d));
    for (int64_t i = 0; i < n; ++i) {
      float* y = args.y.data + (p * n + i) * (d + 1);
      std::copy_n(row(i), d, y);
      y[d] = args.are_keys ? math::mips_coordinate(largest, math::squared_length(row(i), d)) : 0.0f;
    }
  });
}

}  // namespace stipple::kernels::cpu
