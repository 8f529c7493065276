// SPDX-License-Identifier: Apache-2.0
#include "kernels/layernorm.h"

#include <cmath>

#include "kernels/cpu/sums.h"
#include "kernels/runs.h"

namespace stipple::kernels::cpu {
namespace {

STIPPLE_VECTOR_BODY void normalize_rows(const LayerNorm* args, Range rows) {
  const int64_t channels = args->x.shape[1];
  const float* __restrict weight = args->weight.data;
  const float* __restrict bias = args->bias.data;
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const float* __restrict x = args->x.data + row * channels;
    float* __restrict y = args->y.floats().data + row * channels;
    const float count = static_cast<float>(channels);
    const float mean = lane_sum<float>(channels, [x](int64_t c) { return x[c]; }) / count;
    // Squares of differences, not mean(x^2) - mean^2, which cancels when the mean is large.
    const float variance =
        lane_sum<float>(channels, [x, mean](int64_t c) { return (x[c] - mean) * (x[c] - mean); }) /
        count;
    const float rstd = 1.0f / std::sqrt(variance + args->eps);
    for (int64_t c = 0; c < channels; ++c) y[c] = (x[c] - mean) * rstd * weight[c] + bias[c];
    args->mean[row] = mean;
    args->rstd[row] = rstd;
  }
}

STIPPLE_VECTOR_BODY void backward_rows(const LayerNormBackward* args, Range rows,
                                       float* __restrict dweight, float* __restrict dbias) {
  const int64_t channels = args->x.shape[1];
  const float* __restrict weight = args->weight.data;
  for (int64_t c = 0; c < channels; ++c) dweight[c] = dbias[c] = 0.0f;
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const float* __restrict x = args->x.data + row * channels;
    const float* dy = args->dy.floats().data + row * channels;
    float* dx = args->dx.floats().data + row * channels;
    const float mean = args->mean[row];
    const float rstd = args->rstd[row];
    const float count = static_cast<float>(channels);
    const float mean_g =
        lane_sum<float>(channels, [dy, weight](int64_t c) { return dy[c] * weight[c]; }) / count;
    const float mean_g_xhat =
        lane_sum<float>(channels,
                        [=](int64_t c) { return dy[c] * weight[c] * ((x[c] - mean) * rstd); }) /
        count;
    // dx may be dy itself: each element is read before it is written.
#pragma GCC ivdep
    for (int64_t c = 0; c < channels; ++c) {
      const float d = dy[c];
      const float xhat = (x[c] - mean) * rstd;
      dweight[c] += d * xhat;
      dbias[c] += d;
      dx[c] = rstd * (d * weight[c] - mean_g - xhat * mean_g_xhat);
    }
  }
}

}  // namespace

void layernorm(const Stream& stream, const LayerNorm& args) {
  const int64_t rows = args.x.shape[0];
  stream.parallel_for(num_runs(rows, kLayerNormRowRun), [&](int64_t i, int) {
    vectorized<normalize_rows>(&args, nth_run(i, rows, kLayerNormRowRun));
  });
}

void layernorm_backward(const Stream& stream, const LayerNormBackward& args) {
  const int64_t rows = args.x.shape[0], channels = args.x.shape[1];
  const int64_t runs = num_runs(rows, kLayerNormRowRun);
  const Arena::Scope scope(*args.scratch);
  const View<float> dweight = args.scratch->alloc<float>({1, runs, channels});
  const View<float> dbias = args.scratch->alloc<float>({1, runs, channels});
  stream.parallel_for(runs, [&](int64_t i, int) {
    vectorized<backward_rows>(&args, nth_run(i, rows, kLayerNormRowRun),
                              dweight.data + i * channels, dbias.data + i * channels);
  });
  add_partials(stream, args.dweight, dweight, 1.0f);
  add_partials(stream, args.dbias, dbias, 1.0f);
}

}  // namespace stipple::kernels::cpu
