// SPDX-License-Identifier: Apache-2.0
// From token vectors to one vector per sequence.
#pragma once

#include "core/stream.h"
#include "core/view.h"

namespace stipple::kernels {

/// Which positions a pooled vector is the mean of.
enum class MeanOver : uint8_t {
  kPadded,  ///< sum over real tokens / padded length: what the official SBM and Nystromformer code
            ///< does
  kValid,   ///< sum over real tokens / their number (0 for an empty sequence)
  kCls,     ///< position 0, whatever its mask
};

/// y[b] = sum_n mask[b, n] x[b, n] / count.
struct Pooling {
  View<float> y;             // [B, C]  written
  View<const float> x;       // [B, N, C]
  View<const uint8_t> mask;  // [B, N]
  MeanOver mean_over = MeanOver::kPadded;
  int64_t padded_length =
      0;  ///< the divisor of kPadded; at least N (a batch may be trimmed to its longest sequence)
};
void pooling(const Stream&, const Pooling&);
namespace cpu {
void pooling(const Stream&, const Pooling&);
}
namespace cuda {
void pooling(const Stream&, const Pooling&);
}

struct PoolingBackward {
  View<float> dx;            // [B, N, C]  written
  View<const float> dy;      // [B, C]
  View<const uint8_t> mask;  // [B, N]
  MeanOver mean_over = MeanOver::kPadded;
  int64_t padded_length = 0;
};
void pooling_backward(const Stream&, const PoolingBackward&);
namespace cpu {
void pooling_backward(const Stream&, const PoolingBackward&);
}
namespace cuda {
void pooling_backward(const Stream&, const PoolingBackward&);
}

}  // namespace stipple::kernels
