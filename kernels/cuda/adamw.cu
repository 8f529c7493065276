// SPDX-License-Identifier: Apache-2.0
// The optimizer's arithmetic, bound by memory: one pass over the parameters. prepare_update: one
// thread; adamw: a thread per 4 parameters.
#include "kernels/adamw.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/math/adamw.h"

namespace stipple::kernels::cuda {
namespace {

__global__ void prepare_update_kernel(UpdateScalars* scalars, int64_t* applied_steps,
                                      const double* squared_norm, const UpdateRates* rates,
                                      math::UpdateRule rule) {
  *scalars = math::update_scalars(*rates, rule, *squared_norm, *applied_steps);
  *applied_steps += scalars->is_applied;
}

struct Update {
  float *x, *m, *v;
  const float* grad;
  const UpdateScalars* scalars;
  float weight_decay, rate_factor;

  template <int kWidth>
  __device__ void run(int64_t i) const {
    UpdateScalars s = *scalars;
    if (s.is_applied == 0) return;
    s.learning_rate *= rate_factor;
    Pack<kWidth> px = load<kWidth>(x + i), pm = load<kWidth>(m + i), pv = load<kWidth>(v + i);
    const Pack<kWidth> pg = load<kWidth>(grad + i);
    for (int j = 0; j < kWidth; ++j) {
      math::adamw_update(s, weight_decay, pg.at[j], px.at[j], pm.at[j], pv.at[j]);
    }
    store(x + i, px);
    store(m + i, pm);
    store(v + i, pv);
  }
};

}  // namespace

void prepare_update(const Stream& stream, const PrepareUpdate& args) {
  const math::UpdateRule rule{args.clip_norm, args.beta2, args.eps, args.corrects_bias};
  launch(stream, {.grid = 1, .block = 1}, prepare_update_kernel, args.scalars.data,
         args.applied_steps.data, args.squared_norm.data, args.rates.data, rule);
}

void adamw(const Stream& stream, const AdamW& args) {
  const Update update{.x = args.x.data,
                      .m = args.m.data,
                      .v = args.v.data,
                      .grad = args.grad.data,
                      .scalars = args.scalars.data,
                      .weight_decay = args.weight_decay,
                      .rate_factor = args.rate_factor};
  for_each_element(stream, args.x.numel(),
                   are_aligned(args.x.data, args.m.data, args.v.data, args.grad.data), update);
}

}  // namespace stipple::kernels::cuda
