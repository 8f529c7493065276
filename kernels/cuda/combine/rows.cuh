// SPDX-License-Identifier: Apache-2.0
// Rows of channels that a warp works on: lane l holds channels l, l + 32, ... All functions are
// warp-wide.
#pragma once

#include "kernels/cuda/attend/edge.cuh"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/sums.h"

namespace stipple::kernels::cuda {

inline constexpr int kRowWarps = 4;  ///< of a block; each owns a row

/// The row of this warp, counted over the grid.
__device__ inline int64_t row_of_warp() { return int64_t{blockIdx.x} * kRowWarps + warp_index(); }
inline LaunchShape a_warp_each(int64_t rows) {
  return {.grid = blocks_for(rows, kRowWarps), .block = kRowWarps * kWarpSize};
}

template <int kPerLane>
struct LaneRow {
  float at[kPerLane] = {};
};

/// Calls visit(x, channel) for what this lane holds.
template <int kPerLane, class Visit>
__device__ void for_each_channel(int dim, const Visit& visit) {
#pragma unroll
  for (int x = 0; x < kPerLane; ++x) {
    const int channel = lane_index() + x * kWarpSize;
    if (channel < dim) visit(x, channel);
  }
}

template <int kPerLane, class T>
__device__ LaneRow<kPerLane> load_row(const T* row, int dim) {
  LaneRow<kPerLane> a;
  for_each_channel<kPerLane>(dim, [&](int x, int channel) { a.at[x] = to_float(row[channel]); });
  return a;
}
template <int kPerLane, class T>
__device__ void store_row(T* row, int dim, const LaneRow<kPerLane>& a) {
  for_each_channel<kPerLane>(dim,
                             [&](int x, int channel) { row[channel] = from_float<T>(a.at[x]); });
}
/// row += a; rows that are the same memory may be added to one after the other.
template <int kPerLane, class T>
__device__ void add_to_row(T* row, int dim, const LaneRow<kPerLane>& a) {
  for_each_channel<kPerLane>(dim, [&](int x, int channel) {
    row[channel] = from_float<T>(to_float(row[channel]) + a.at[x]);
  });
}

template <int kPerLane>
__device__ float dot(const LaneRow<kPerLane>& a, const LaneRow<kPerLane>& b) {
  float sum = 0.0f;
#pragma unroll
  for (int x = 0; x < kPerLane; ++x) sum += a.at[x] * b.at[x];
  return lanes_sum(sum);
}
template <int kPerLane>
__device__ void add_scaled(LaneRow<kPerLane>& sum, float factor, const LaneRow<kPerLane>& a) {
#pragma unroll
  for (int x = 0; x < kPerLane; ++x) sum.at[x] += factor * a.at[x];
}
template <int kPerLane>
__device__ void scale_by(LaneRow<kPerLane>& a, float factor) {
#pragma unroll
  for (float& x : a.at) x *= factor;
}

/// The sum of weights exp(score), seen one by one; `rescale(factor, rise)` is told when sums kept
/// beside it must follow a highest score that is higher by `rise`.
struct RunningSoftmax {
  float highest = -kInfinity;
  float sum = 0.0f;

  /// Returns the weight of `score`.
  template <class Rescale>
  __device__ float add(float score, const Rescale& rescale) {
    if (score > highest) {
      const float factor = exp2_fast((highest - score) * kLog2E);
      sum *= factor;
      rescale(factor, score - highest);
      highest = score;
    }
    const float weight = exp2_fast((score - highest) * kLog2E);
    sum += weight;
    return weight;
  }
  /// -inf where nothing was seen.
  __device__ float lse() const { return highest + logf(sum); }
};

/// Calls body with the least k, as a constant, so that 32 k channels hold dim of them.
template <class Body>
void with_channels_per_lane(int64_t dim, const Body& body) {
  STIPPLE_CHECK(dim <= kMaxHeadDim, "attention with a warp a row, on CUDA, has heads of at most ",
                kMaxHeadDim, " channels, not ", dim);
  if (dim <= kWarpSize) return body.template operator()<1>();
  if (dim <= 2 * kWarpSize) return body.template operator()<2>();
  body.template operator()<4>();
}

}  // namespace stipple::kernels::cuda
