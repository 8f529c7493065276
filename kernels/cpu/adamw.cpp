// SPDX-License-Identifier: Apache-2.0
#include "kernels/adamw.h"

#include "kernels/cpu/vectorize.h"
#include "kernels/math/adamw.h"
#include "kernels/runs.h"

namespace stipple::kernels::cpu {
namespace {

STIPPLE_VECTOR_BODY void update_run(const AdamW* args, UpdateScalars scalars, Range run) {
  float* __restrict x = args->x.data;
  float* __restrict m = args->m.data;
  float* __restrict v = args->v.data;
  const float* __restrict grad = args->grad.data;
  for (int64_t i = run.begin; i < run.end; ++i) {
    math::adamw_update(scalars, args->weight_decay, grad[i], x[i], m[i], v[i]);
  }
}

}  // namespace

void prepare_update(const Stream&, const PrepareUpdate& args) {
  const math::UpdateRule rule{args.clip_norm, args.beta2, args.eps, args.corrects_bias};
  const UpdateScalars scalars =
      math::update_scalars(args.rates[0], rule, args.squared_norm[0], args.applied_steps[0]);
  args.scalars[0] = scalars;
  args.applied_steps[0] += scalars.is_applied;
}

void adamw(const Stream& stream, const AdamW& args) {
  UpdateScalars scalars = args.scalars[0];
  if (scalars.is_applied == 0) return;
  scalars.learning_rate *= args.rate_factor;
  stream.parallel_for(num_runs(args.x.numel(), kElementRun), [&](int64_t i, int) {
    vectorized<update_run>(&args, scalars, nth_run(i, args.x.numel(), kElementRun));
  });
}

}  // namespace stipple::kernels::cpu
