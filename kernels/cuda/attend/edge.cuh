// SPDX-License-Identifier: Apache-2.0
// What one edge of an attention graph weighs and what gradient it gets: the scalar formulas that
// CUDA's ways through CSR share.
#pragma once

#include <limits>

#include "kernels/cuda/attend/parts.h"
#include "kernels/cuda/device.cuh"

namespace stipple::kernels::cuda {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kLog2E = 1.44269504f;

/// AttentionDropout of one problem.
struct ProblemDropout {
  bool is_on = false;
  uint32_t drop_below = 0;
  float rescale = 1.0f;
  PhiloxKey key;
  uint32_t sample = 0;
  uint32_t stream = 0;

  __device__ float factor(int query, int key_index) const {
    if (!is_on) return 1.0f;
    const PhiloxCounter words =
        philox4x32(rng_counter(static_cast<uint32_t>(key_index / 4), static_cast<uint32_t>(query),
                               sample, stream),
                   key);
    const auto low = static_cast<uint32_t>(key_index) % 4;
    const uint32_t word = low < 2 ? (low == 0 ? words[0] : words[1])
                                  : (low == 2 ? words[2] : words[3]);  // stays in registers
    return word >= drop_below ? rescale : 0.0f;
  }
};

__device__ inline ProblemDropout problem_dropout(const WeightDropout& dropout, int64_t heads,
                                                 int64_t problem) {
  if (!dropout.is_on) return {};
  const auto head = static_cast<int>(problem % heads);
  return {true,
          dropout.drop_below,
          dropout.rescale,
          dropout.rng.philox(),
          dropout.samples[problem / heads],
          stream_word(dropout.layer, dropout.first_head + head, Purpose::kAttentionDropout)};
}
__device__ inline ProblemDropout dropout_of(const AttendArrays& a, int64_t problem) {
  return problem_dropout(a.dropout, a.heads, problem);
}

/// [M]; null: all keys
__device__ inline const uint8_t* mask_of(const AttendArrays& a, int64_t problem) {
  return a.key_mask == nullptr ? nullptr : a.key_mask + problem / a.heads * a.num_keys;
}

/// What backward makes of an edge.
struct EdgeGradient {
  float weight = 0.0f;  ///< of dout in dv
  float score = 0.0f;
  float probability = 0.0f;  ///< straight through
};

struct EdgeFactors {
  int query;
  int key;
  bool counts;  ///< its key is not masked
  float drawn;
  float score;
  float value;  ///< do_i . v_j
  float lse;
  float delta;
};

__device__ inline EdgeGradient gradient_of(const AttendArrays& a, const ProblemDropout& dropout,
                                           const EdgeFactors& e) {
  const float weight = e.counts ? e.drawn * exp2_fast((e.score - e.lse) * kLog2E) : 0.0f;
  const float factor = e.counts ? dropout.factor(e.query, e.key) : 0.0f;
  const float ds = e.counts ? weight * (factor * e.value - e.delta) : 0.0f;
  const int distance = e.query < e.key ? e.key - e.query : e.query - e.key;
  const bool is_forced = distance <= a.ste.window_radius;
  const float straight = (a.ste.rule == SteRule::kPaper ? ds * e.score : ds) + a.ste.regularizer;
  const float clip = a.ste.clip;
  const float clipped = straight < -clip ? -clip : (straight > clip ? clip : straight);
  return {weight * factor, a.scale * ds, is_forced ? 0.0f : clipped};
}

}  // namespace stipple::kernels::cuda
