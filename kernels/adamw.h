// SPDX-License-Identifier: Apache-2.0
// The optimizer's arithmetic over flat arenas.
#pragma once

#include "core/stream.h"
#include "core/view.h"

namespace stipple::kernels {

/// What the schedule says of one step. In device memory, so that a captured step can be replayed
/// with other values.
struct UpdateRates {
  float learning_rate = 0;
  float beta1 = 0.9f;
  int32_t is_wanted = 1;  ///< 0: the trainer vetoes this update
};

/// The scalars of one update, as its elements use them.
struct UpdateScalars {
  float learning_rate, beta1, beta2, eps;
  float grad_scale;  ///< the clipping factor min(1, clip_norm / norm)
  float inverse_correction1, inverse_correction2;
  int32_t is_applied;  ///< 0: the norm was not finite, or the update not wanted: adamw does nothing
};

/// Turns rates and the gradients' norm into the scalars of one update, and counts it where it is
/// applied.
///   inverse_correction1 = 1 / (1 - beta1^applied), with the present beta1 as PyTorch has it;
///   inverse_correction2 = 1 / (1 - beta2^applied); powers in double; both 1 where the bias of the
///   moments is left in them, as BERT's optimizer does.
struct PrepareUpdate {
  View<UpdateScalars> scalars;      // [1]  written
  View<int64_t> applied_steps;      // [1]  += 1 where applied: updates so far
  View<const double> squared_norm;  // [1]
  View<const UpdateRates> rates;    // [1]
  double clip_norm = 0;             ///< 0: no clipping
  double beta2 = 0.999;
  float eps = 1e-8f;
  bool corrects_bias = true;
};
void prepare_update(const Stream&, const PrepareUpdate&);
namespace cpu {
void prepare_update(const Stream&, const PrepareUpdate&);
}
namespace cuda {
void prepare_update(const Stream&, const PrepareUpdate&);
}

/// One AdamW update of a run of parameters with equal decay and factor of the learning rate.
///   g = grad * grad_scale;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;
///   x -= lr factor (m / c1 / (sqrt(v / c2) + eps) + decay x)
/// Source: Loshchilov, Hutter (arXiv 1711.05101), eps outside the root as in PyTorch. Arithmetic in
/// float.
struct AdamW {
  View<float> x, m, v;                // [N]  in place
  View<const float> grad;             // [N]
  View<const UpdateScalars> scalars;  // [1]  of prepare_update
  float weight_decay = 0;
  float rate_factor = 1;
};
void adamw(const Stream&, const AdamW&);
namespace cpu {
void adamw(const Stream&, const AdamW&);
}
namespace cuda {
void adamw(const Stream&, const AdamW&);
}

}  // namespace stipple::kernels
