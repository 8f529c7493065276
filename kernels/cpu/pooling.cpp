// SPDX-License-Identifier: Apache-2.0
#include "kernels/pooling.h"

#include <algorithm>

#include "kernels/cpu/vectorize.h"
#include "kernels/runs.h"

namespace stipple::kernels::cpu {
namespace {

/// Channels summed together, in double: sequences are thousands of tokens long.
constexpr int64_t kChannelSlice = 32;

/// 1 / count of one sequence; 0 when there is nothing to count.
double weight_of_token(View<const uint8_t> mask, MeanOver mean_over, int64_t padded_length) {
  if (mean_over == MeanOver::kPadded) return 1.0 / static_cast<double>(padded_length);
  if (mean_over == MeanOver::kCls) return 1.0;
  const auto masked = std::count(mask.data, mask.data + mask.numel(), uint8_t{0});
  const int64_t count = mask.numel() - masked;
  return count == 0 ? 0.0 : 1.0 / static_cast<double>(count);
}

bool is_counted(View<const uint8_t> mask, MeanOver mean_over, int64_t n) {
  return mean_over == MeanOver::kCls ? n == 0 : mask[n] != 0;
}

STIPPLE_VECTOR_BODY void add_slice(double* __restrict sums, const float* __restrict x, int64_t n) {
  for (int64_t c = 0; c < n; ++c) sums[c] += static_cast<double>(x[c]);
}

STIPPLE_VECTOR_BODY void pool_slice(const Pooling* args, int64_t b, Range slice) {
  const int64_t tokens = args->x.shape[1], channels = args->x.shape[2];
  const View<const uint8_t> mask = args->mask.at(b);
  double sums[kChannelSlice] = {};
  for (int64_t n = 0; n < tokens; ++n) {
    if (!is_counted(mask, args->mean_over, n)) continue;
    add_slice(sums, args->x.data + (b * tokens + n) * channels + slice.begin, slice.size());
  }
  const double weight = weight_of_token(mask, args->mean_over, args->padded_length);
  float* y = args->y.data + b * channels + slice.begin;
  for (int64_t c = 0; c < slice.size(); ++c) y[c] = static_cast<float>(sums[c] * weight);
}

void spread(const PoolingBackward& args, int64_t b) {
  const int64_t tokens = args.dx.shape[1], channels = args.dx.shape[2];
  const View<const uint8_t> mask = args.mask.at(b);
  const auto weight = static_cast<float>(weight_of_token(mask, args.mean_over, args.padded_length));
  const float* dy = args.dy.data + b * channels;
  for (int64_t n = 0; n < tokens; ++n) {
    float* dx = args.dx.data + (b * tokens + n) * channels;
    if (is_counted(mask, args.mean_over, n)) {
      for (int64_t c = 0; c < channels; ++c) dx[c] = dy[c] * weight;
    } else {
      std::fill_n(dx, channels, 0.0f);
    }
  }
}

}  // namespace

void pooling(const Stream& stream, const Pooling& args) {
  const int64_t channels = args.x.shape[2];
  const int64_t slices = num_runs(channels, kChannelSlice);
  stream.parallel_for(args.x.shape[0] * slices, [&](int64_t i, int) {
    vectorized<pool_slice>(&args, i / slices, nth_run(i % slices, channels, kChannelSlice));
  });
}

void pooling_backward(const Stream& stream, const PoolingBackward& args) {
  stream.parallel_for(args.dx.shape[0], [&](int64_t b, int) { spread(args, b); });
}

}  // namespace stipple::kernels::cpu
