// SPDX-License-Identifier: Apache-2.0
#include "kernels/token_features.h"

#include <algorithm>

#include "kernels/hidden_unit.h"
#include "kernels/runs.h"

namespace stipple::kernels::cpu {
namespace {

constexpr int64_t kFeatureRun = 64;  ///< tokens of one piece of work

/// One token: a row of weights a channel, so that outputs vectorise.
void hide(const float* x, const float* weight, const float* bias, int64_t d, int64_t f, float* y) {
  std::fill_n(y, f, 0.0f);
  for (int64_t k = 0; k < d; ++k)
    for (int64_t e = 0; e < f; ++e) y[e] += x[k] * weight[k * f + e];
  for (int64_t e = 0; e < f; ++e) y[e] = hidden_unit(y[e] + bias[e]);
}

}  // namespace

void hidden_tokens(const Stream& stream, const HiddenTokens& args) {
  const Shape& shape = args.x.shape;
  const int64_t heads = shape[1], n = shape[2], d = shape[3], f = args.y.shape[3];
  const View<const float> x = args.x.floats();
  const int64_t runs = num_runs(n, kFeatureRun);
  stream.parallel_for(shape[0] * heads * runs, [&](int64_t piece, int) {
    const int64_t p = piece / runs, h = p % heads;
    const Range tokens = nth_run(piece % runs, n, kFeatureRun);
    for (int64_t i = p * n + tokens.begin; i < p * n + tokens.end; ++i)
      hide(x.data + i * d, args.weight.data + h * d * f, args.bias.data + h * f, d, f,
           args.y.data + i * f);
  });
}

void join_tokens(const Stream& stream, const JoinTokens& args) {
  const View<const float> first = args.first.floats(), second = args.second.floats();
  const int64_t n = first.shape[2], a = first.shape[3], b = second.shape[3];
  stream.parallel_for(first.shape[0] * first.shape[1], [&](int64_t p, int) {
    for (int64_t i = p * n; i < (p + 1) * n; ++i) {
      float* y = args.y.data + i * (a + b);
      std::copy_n(first.data + i * a, a, y);
      std::copy_n(second.data + i * b, b, y + a);
    }
  });
}

}  // namespace stipple::kernels::cpu
