// SPDX-License-Identifier: Apache-2.0
// How a Matmul is cut: shared by the front, which checks, and the backends, which take partial sums
// and fill them.
#pragma once

#include "kernels/matmul.h"

namespace stipple::kernels {

/// Result r is the sum of `terms` products p = r + j * results. One partial sum covers `group`
/// consecutive j and one of `inner_runs` pieces of the inner dimension. On CUDA it covers one
/// product: cuBLASLt cuts a long inner dimension by itself.
struct MatmulPlan {
  int64_t m, n, k;
  int64_t a_count, b_count;
  int64_t results;
  int64_t terms;
  int64_t group;
  int64_t inner_runs;

  int64_t groups() const { return (terms + group - 1) / group; }
  int64_t partials() const { return groups() * inner_runs; }  ///< per result; 1: written in place
};

/// Checks the shapes (ShapeError) and cuts as `backend` wants it.
MatmulPlan plan_matmul(const Matmul& args, DeviceType backend);

}  // namespace stipple::kernels
