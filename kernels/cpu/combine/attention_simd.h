// SPDX-License-Identifier: Apache-2.0
// Attention over tokens and regions: by passes, or by lists where a query has few keys.
#pragma once

#include "kernels/cpu/combine/lists_simd.h"
#include "kernels/cpu/combine/passes_simd.h"

namespace stipple::kernels::cpu::STIPPLE_SIMD {

inline void forward(const CombineProblem& p, const CombineBuffers& b) {
  has_lists(p.partition) ? forward_lists(p, b) : forward_passes(p, b);
}

inline void backward(const CombineProblem& p, const CombineBuffers& b) {
  // Direct keys of a run of queries are the run's own tokens.
  for (float* rows : {p.dq, p.dk, p.dv})
    clear_rows(rows + p.first_query * p.dim, p.end_query - p.first_query, p.dim);
  clear_rows(p.dregion_key, p.partition.num_regions(), p.dim);
  clear_rows(p.dregion_value, p.partition.num_regions(), p.dim);
  if (p.dmass != nullptr) *p.dmass = 0.0;
  has_lists(p.partition) ? backward_lists(p, b) : backward_passes(p, b);
}

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
