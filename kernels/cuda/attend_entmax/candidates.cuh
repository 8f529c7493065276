// SPDX-License-Identifier: Apache-2.0
// Inside CUDA's attend_entmax: which keys of a query may have a weight, and which queries of a key
// may give it one, by tiles on tensor cores.
#pragma once

#include "kernels/cuda/attend/parts.h"
#include "kernels/cuda/device.cuh"

namespace stipple::kernels::cuda {

/// What may have a weight; a row with more than `room`, or with a score that is not a number, has
/// count > room, and all of its pairs are to be looked at.
struct EntmaxCandidates {
  int32_t* count = nullptr;     // [B, H, rows]        written
  uint32_t* columns = nullptr;  // [B, H, rows, room]  written, ascending, as many as there are
  int64_t room = 0;
};

/// What these have in common: q, k, key_mask, pattern and scale of `a`, which has no graph.
struct EntmaxTiles {
  AttendArrays a;
  const float* alpha;          // [H]
  const float* temperature;    // [H]; null: 1
  const int32_t* longest_key;  // [B, H]  of find_longest_keys
};

/// The largest norm of each problem's keys, as the bits of floats, which ascend as they do; of what is
/// not a number the largest. longest: [B, H].
void find_longest_keys(const Stream&, const AttendArrays&, int32_t* longest);

void list_keys(const Stream&, const EntmaxTiles&, const EntmaxCandidates&, Arena& scratch);
/// bounds: [B, H, N], which x of a query's keys must exceed, less entmax_slack.
void list_queries(const Stream&, const EntmaxTiles&, const float* bounds, const EntmaxCandidates&,
                  Arena& scratch);

/// What x may differ from another sum of the same products, twice. factor: of a product, in x.
__device__ inline float entmax_slack(float factor, float query_norm, int32_t longest_key, int dim) {
  constexpr float kRounding = 0x1p-21f;
  return fabsf(factor) * query_norm * std::bit_cast<float>(longest_key) *
         (kRounding * static_cast<float>(dim));
}

}  // namespace stipple::kernels::cuda
