// SPDX-License-Identifier: Apache-2.0
// What the row sampler prepares of a problem's keys before it draws rows: O(M K).
#pragma once

#include "kernels/cpu/sample/sample.h"
#include "kernels/cpu/sample/scratch.h"

namespace stipple::kernels::cpu {

struct PreparedKeys {
  KeyTables tables;
  const double* zeta = nullptr;         // [K]  a cluster's sum of weights, see cluster_rate()
  const float* zmax = nullptr;          // [K]
  const uint32_t* real_keys = nullptr;  // the keys that are not padding, ascending
  int64_t num_real_keys = 0;
};

/// In the scratch memory of one worker.
PreparedKeys prepare_keys(const SampleProblem&, const SampleKernels&, const SampleScratch&,
                          int worker);

}  // namespace stipple::kernels::cpu
