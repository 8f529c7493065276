// SPDX-License-Identifier: Apache-2.0
// From inner products to distances (maximum inner product search: Bachrach et al., RecSys 2014): keys
// get one coordinate more, which brings all of a sequence to one length, and queries a zero there.
// Then |q~ - k~|^2 = |q|^2 + max |k|^2 - 2 q.k: of one query, keys are as near as their scores are
// large, also those that are long and so are near to no query.
//
// The same bits on every device: squares are summed one channel after the other, in float.
#pragma once

#include "core/arena.h"
#include "core/real_view.h"
#include "core/stream.h"
#include "core/view.h"

namespace stipple::kernels {

/// y = [x, 0] of queries, [x, sqrt(max over real j of |x_j|^2 - |x|^2)] of keys; 0 where that is
/// negative, as padding may have it. O(N D)
struct MipsTokens {
  View<float> y;               // [B, H, N, D + 1]  written
  ConstRealView x;             // [B, H, N, D]
  View<const uint8_t> mask{};  // [B, N]; empty: all real
  bool are_keys = false;
};
void mips_tokens(const Stream&, const MipsTokens&);
namespace cpu {
void mips_tokens(const Stream&, const MipsTokens&);
}
namespace cuda {
void mips_tokens(const Stream&, const MipsTokens&);
}

}  // namespace stipple::kernels
