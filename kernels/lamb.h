// SPDX-License-Identifier: Apache-2.0
// LAMB: Adam's direction, scaled tensor by tensor so that a step is as long, beside the tensor, as
// the learning rate says.
#pragma once

#include <cstdint>

#include "core/arena.h"
#include "core/stream.h"
#include "core/view.h"
#include "kernels/adamw.h"

namespace stipple::kernels {

/// What is done with one tensor.
struct LambTensor {
  int64_t first_run, num_runs;  ///< in Lamb::runs
  float weight_decay;
  float rate_factor;  ///< of the learning rate
  int32_t adapts;     ///< 0: its ratio is 1
};

/// A part of a tensor's elements, at most kNormRun (kernels/runs.h): neighbours in one tensor begin
/// a multiple of that apart.
struct LambRun {
  int64_t begin, end;
  int32_t tensor;
};

/// Of the tensors that adapt; 1 where none does.
struct TrustRatios {
  float mean = 1, min = 1;
};

/// One LAMB update of all tensors.
///   g = grad * grad_scale;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;
///   u = m / c1 / (sqrt(v / c2) + eps) + decay x;
///   r = |x| / |u| by tensor, 1 where one of the norms is 0 or the tensor does not adapt;
///   x -= lr factor r u
/// Source: You et al. (arXiv 1904.00962), algorithm 2 with the identity for phi. Norms are sums in
/// double over the tensor's runs, added in one order: the same bits for any number of threads, and
/// whatever else is in the arena. Arithmetic of elements in float. u is computed twice rather than
/// kept: no memory of the size of the parameters. Elements outside all runs are not touched.
struct Lamb {
  View<float> x, m, v;                // [N]  in place
  View<const float> grad;             // [N]
  View<const UpdateScalars> scalars;  // [1]  of prepare_update
  View<const LambTensor> tensors;     // [T]
  View<const LambRun> runs;           // [R]  by tensor
  View<float> ratios;                 // [T]  written where the update is applied
  View<TrustRatios> summary;          // [1]  likewise
  Arena* scratch = nullptr;
};
void lamb(const Stream&, const Lamb&);
namespace cpu {
void lamb(const Stream&, const Lamb&);
}
namespace cuda {
void lamb(const Stream&, const Lamb&);
}

}  // namespace stipple::kernels
