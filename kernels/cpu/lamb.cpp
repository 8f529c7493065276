// SPDX-License-Identifier: Apache-2.0
#include "kernels/lamb.h"

#include "kernels/cpu/sums.h"
#include "kernels/cpu/vectorize.h"
#include "kernels/math/lamb.h"
#include "kernels/runs.h"

namespace stipple::kernels::cpu {
namespace {

struct SquaresOfRun {
  double x, u;
};

STIPPLE_VECTOR_BODY void move_moments(SquaresOfRun* squares, const Lamb* args, UpdateScalars s,
                                      LambRun run) {
  const float* __restrict x = args->x.data + run.begin;
  float* __restrict m = args->m.data + run.begin;
  float* __restrict v = args->v.data + run.begin;
  const float* __restrict grad = args->grad.data + run.begin;
  const int64_t count = run.end - run.begin;
  const float decay = args->tensors.data[run.tensor].weight_decay;
  for (int64_t i = 0; i < count; ++i) math::lamb_moments(s, grad[i], m[i], v[i]);
  squares->x = lane_sum<double>(
      count, [x](int64_t i) { return static_cast<double>(x[i]) * static_cast<double>(x[i]); });
  squares->u = lane_sum<double>(count, [x, m, v, s, decay](int64_t i) {
    const auto u = static_cast<double>(math::lamb_direction(s, decay, x[i], m[i], v[i]));
    return u * u;
  });
}

STIPPLE_VECTOR_BODY void move_parameters(const Lamb* args, UpdateScalars s, LambRun run) {
  float* __restrict x = args->x.data + run.begin;
  const float* __restrict m = args->m.data + run.begin;
  const float* __restrict v = args->v.data + run.begin;
  const LambTensor tensor = args->tensors.data[run.tensor];
  const float rate = s.learning_rate * tensor.rate_factor * args->ratios.data[run.tensor];
  for (int64_t i = 0; i < run.end - run.begin; ++i)
    x[i] -= rate * math::lamb_direction(s, tensor.weight_decay, x[i], m[i], v[i]);
}

/// As a binary tree, in place.
SquaresOfRun sum_of(SquaresOfRun* parts, int64_t count) {
  for (int64_t step = 1; step < count; step *= 2) {
    for (int64_t i = 0; i + step < count; i += 2 * step) {
      parts[i].x += parts[i + step].x;
      parts[i].u += parts[i + step].u;
    }
  }
  return count == 0 ? SquaresOfRun{} : parts[0];
}

}  // namespace

void lamb(const Stream& stream, const Lamb& args) {
  const Arena::Scope scope(*args.scratch);
  const View<SquaresOfRun> squares = args.scratch->alloc<SquaresOfRun>({args.runs.numel()});
  if (stream.is_plan()) return;
  const UpdateScalars scalars = args.scalars[0];
  if (scalars.is_applied == 0) return;
  stream.parallel_for(args.runs.numel(), [&](int64_t i, int) {
    vectorized<move_moments>(&squares[i], &args, scalars, args.runs[i]);
  });
  for (int64_t t = 0; t < args.tensors.numel(); ++t) {
    const LambTensor& tensor = args.tensors[t];
    const SquaresOfRun sum = sum_of(squares.data + tensor.first_run, tensor.num_runs);
    args.ratios[t] = math::trust_ratio(tensor, sum.x, sum.u);
  }
  args.summary[0] = math::summary_of(args.tensors.data, args.ratios.data, args.tensors.numel());
  stream.parallel_for(args.runs.numel(), [&](int64_t i, int) {
    vectorized<move_parameters>(&args, scalars, args.runs[i]);
  });
}

}  // namespace stipple::kernels::cpu
