// SPDX-License-Identifier: Apache-2.0
// What Sparsefinder may make of queries and keys before it projects them to few dimensions
// (kernels/predict.h): a hidden layer, or one array of both. No gradient passes here.
//
// The same bits on every device: sums run over one channel after the other, in float.
#pragma once

#include "core/real_view.h"
#include "core/stream.h"
#include "core/view.h"

namespace stipple::kernels {

/// y = tanh(x W + b), per head. O(N D F)
struct HiddenTokens {
  View<float> y;             // [B, H, N, F]  written
  ConstRealView x;           // [B, H, N, D]
  View<const float> weight;  // [H, D, F]
  View<const float> bias;    // [H, F]
};
void hidden_tokens(const Stream&, const HiddenTokens&);

/// y = [first, second]: the channels of one, then those of the other. O(N D)
struct JoinTokens {
  View<float> y;                // [B, H, N, D + D']  written
  ConstRealView first, second;  // [B, H, N, D], [B, H, N, D']
};
void join_tokens(const Stream&, const JoinTokens&);

namespace cpu {
void hidden_tokens(const Stream&, const HiddenTokens&);
void join_tokens(const Stream&, const JoinTokens&);
}  // namespace cpu
namespace cuda {
void hidden_tokens(const Stream&, const HiddenTokens&);
void join_tokens(const Stream&, const JoinTokens&);
}  // namespace cuda

}  // namespace stipple::kernels
