// SPDX-License-Identifier: Apache-2.0
// Between the two layouts of multi-head attention: the columns of a projection, and one matrix per
// head. A copy: no arithmetic.
#pragma once

#include "core/real_view.h"
#include "core/stream.h"

namespace stipple::kernels {

/// y[b, h, n, d] = x[b, n, h * D + d]: the columns of a projection, one matrix per head.
struct SplitHeads {
  RealView y;       // [B, H, N, D]  written
  ConstRealView x;  // [B, N, H * D]
};
void split_heads(const Stream&, const SplitHeads&);
namespace cpu {
void split_heads(const Stream&, const SplitHeads&);
}
namespace cuda {
void split_heads(const Stream&, const SplitHeads&);
}

/// The inverse of split_heads.
struct MergeHeads {
  RealView y;       // [B, N, H * D]  written
  ConstRealView x;  // [B, H, N, D]
};
void merge_heads(const Stream&, const MergeHeads&);
namespace cpu {
void merge_heads(const Stream&, const MergeHeads&);
}
namespace cuda {
void merge_heads(const Stream&, const MergeHeads&);
}

}  // namespace stipple::kernels
