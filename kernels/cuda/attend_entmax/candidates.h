// SPDX-License-Identifier: Apache-2.0
// Inside CUDA's attend_entmax: which keys of a query may have a weight, by tiles on tensor cores.
#pragma once

#include "kernels/cuda/attend/parts.h"

namespace stipple::kernels::cuda {

/// Keys that may have a weight; a row with more than `room` of them, or with a score that is not a
/// number, has count > room, and all of its pairs are to be looked at.
struct EntmaxCandidates {
  int32_t* count = nullptr;     // [B, H, N]        written
  uint32_t* columns = nullptr;  // [B, H, N, room]  written, ascending, as many as there are
  int64_t room = 0;
};

/// Of q, k, key_mask, pattern and scale of `a`, which has no graph.
void entmax_candidates(const Stream&, const AttendArrays& a, const float* alpha,
                       const float* temperature, const EntmaxCandidates&, Arena& scratch);

}  // namespace stipple::kernels::cuda
