// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/sums.h"

#include "kernels/runs.h"

namespace stipple::kernels::cpu {
namespace {

STIPPLE_VECTOR_BODY void add_tree(float* partials, int64_t count, int64_t stride, int64_t n) {
  for (int64_t step = 1; step < count; step *= 2) {
    for (int64_t i = 0; i + step < count; i += 2 * step) {
      float* __restrict to = partials + i * stride;
      const float* __restrict from = partials + (i + step) * stride;
      for (int64_t j = 0; j < n; ++j) to[j] += from[j];
    }
  }
}

STIPPLE_VECTOR_BODY void store_sum(float* result, const float* sum, int64_t n, float beta) {
  if (beta == 0.0f) {
    for (int64_t j = 0; j < n; ++j) result[j] = sum[j];
  } else {
    for (int64_t j = 0; j < n; ++j) result[j] = beta * result[j] + sum[j];
  }
}

}  // namespace

void add_partials(const Stream& stream, View<float> result, View<float> partials, float beta) {
  const int64_t count = partials.shape[1];
  const int64_t n = partials.shape[2];
  // Narrow slices: a whole column of partials stays in the second-level cache while its tree is
  // added.
  constexpr int64_t kSlice = 512;
  const int64_t slices = num_runs(n, kSlice);
  stream.parallel_for(partials.shape[0] * slices, [&](int64_t i, int) {
    const int64_t r = i / slices;
    const Range slice = nth_run(i % slices, n, kSlice);
    float* column = partials.data + r * count * n + slice.begin;
    vectorized<add_tree>(column, count, n, slice.size());
    vectorized<store_sum>(result.data + r * n + slice.begin, column, slice.size(), beta);
  });
}

}  // namespace stipple::kernels::cpu
