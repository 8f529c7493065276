// SPDX-License-Identifier: Apache-2.0
// Is what bench_cuda times also right at full size? 64 random rows of every result against sums in
// double on the host, from operands and graph as they lie in the device's memory.
#pragma once

#include "core/real_view.h"
#include "core/stream.h"
#include "kernels/edges.h"

namespace stipple::bench {

enum class Pass { kForward, kBackward, kBackwardSte, kSample };

/// Arrays of a pass over P problems of N queries and keys; those that it does not have are empty.
struct PassArrays {
  int64_t problems = 0, n = 0, d = 0, clusters = 0;
  float scale = 1.0f;
  kernels::EdgeSet edges;  // no rows in form: every pair
  ConstRealView q, k, v, dout;
  ConstRealView mu, z;  // of the sampler; z is also y and z of the straight-through gradient
  RealView o, dq, dk, dv, row_grad, column_grad;
  View<float> lse;
  uint64_t seed = 0, step = 0;  ///< of the graph, of sample 0, layer 0
};

/// The largest error of any element of the rows, as a share of what rounding of the storage explains:
/// up to 1 is right. Of kSample by tiles: pairs that contradict their word of Philox by more than
/// rounding are infinitely wrong; by rows: the mean degree, as a share of six standard deviations.
double worst_error(const Stream&, const PassArrays&, Pass);

/// What the pass writes: filled with NaN, and hashed.
void poison_results(const Stream&, const PassArrays&, Pass);
uint64_t hash_results(const Stream&, const PassArrays&, Pass);

}  // namespace stipple::bench
