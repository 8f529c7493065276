// SPDX-License-Identifier: Apache-2.0
// Layer normalisation over the last dimension.
#pragma once

#include "core/arena.h"
#include "core/real_view.h"
#include "core/stream.h"
#include "core/view.h"

namespace stipple::kernels {

/// y = (x - mean) / sqrt(var + eps) * weight + bias, per row; var is the biased variance.
/// Source: Ba, Kiros, Hinton 2016 (arXiv 1607.06450). y may not alias x. Deterministic: yes. Cost:
/// 2 passes over x.
struct LayerNorm {
  RealView y;                      // [N, C]  written, rounded to its storage
  View<float> mean, rstd;          // [N]     written, for backward
  View<const float> x;             // [N, C]
  View<const float> weight, bias;  // [C]
  float eps = 1e-5f;
};
void layernorm(const Stream&, const LayerNorm&);
namespace cpu {
void layernorm(const Stream&, const LayerNorm&);
}
namespace cuda {
void layernorm(const Stream&, const LayerNorm&);
}

/// dx = rstd (g - mean(g) - xhat mean(g xhat)), g = dy weight;  dweight += sum dy xhat;  dbias +=
/// sum dy.
struct LayerNormBackward {
  RealView dx;                   // [N, C]  written; may alias dy
  View<float> dweight, dbias;    // [C]     +=
  ConstRealView dy;              // [N, C]  stored as dx
  View<const float> x;           // [N, C]
  View<const float> weight;      // [C]
  View<const float> mean, rstd;  // [N]
  Arena* scratch = nullptr;      ///< partial sums over fixed runs of rows
};
void layernorm_backward(const Stream&, const LayerNormBackward&);
namespace cpu {
void layernorm_backward(const Stream&, const LayerNormBackward&);
}
namespace cuda {
void layernorm_backward(const Stream&, const LayerNormBackward&);
}

}  // namespace stipple::kernels
