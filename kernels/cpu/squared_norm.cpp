// SPDX-License-Identifier: Apache-2.0
#include "kernels/squared_norm.h"

#include "kernels/cpu/sums.h"
#include "kernels/runs.h"

namespace stipple::kernels::cpu {
namespace {

STIPPLE_VECTOR_BODY void sum_squares(double* sum, const float* x, int64_t n) {
  *sum = lane_sum<double>(
      n, [x](int64_t i) { return static_cast<double>(x[i]) * static_cast<double>(x[i]); });
}

}  // namespace

void squared_norm(const Stream& stream, const SquaredNorm& args) {
  const int64_t runs = num_runs(args.x.numel(), kNormRun);
  const Arena::Scope scope(*args.scratch);
  const View<double> partials = args.scratch->alloc<double>({runs});
  stream.parallel_for(runs, [&](int64_t i, int) {
    const Range run = nth_run(i, args.x.numel(), kNormRun);
    vectorized<sum_squares>(&partials[i], args.x.data + run.begin, run.size());
  });
  if (stream.is_plan()) return;
  for (int64_t step = 1; step < runs; step *= 2) {
    for (int64_t i = 0; i + step < runs; i += 2 * step) partials[i] += partials[i + step];
  }
  args.sum[0] = runs == 0 ? 0.0 : partials[0];
}

}  // namespace stipple::kernels::cpu
