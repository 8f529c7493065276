// SPDX-License-Identifier: Apache-2.0
// Merging of parts: the lanes of a row (see attend.cu, delta) each weigh the parts and add their
// elements. Bound by memory: a row of D elements read a part, and one written.
#include <cmath>
#include <limits>

#include "kernels/attend.h"
#include "kernels/cuda/elements.cuh"

namespace stipple::kernels::cuda {
namespace {

constexpr int kMostParts = static_cast<int>(MergeParts::kMostParts);

template <class T>
struct MergeArrays {
  T* o;        // [rows, D]
  float* lse;  // [rows]
  int parts;
  const T* part_o[kMostParts]{};
  const float* part_lse[kMostParts]{};
};

/// What each part of a row weighs in the whole; returns the row's lse.
template <class T>
__device__ float weigh(const MergeArrays<T>& x, int64_t row, float (&weights)[kMostParts]) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  float highest = -kInfinity;
#pragma unroll
  for (int k = 0; k < kMostParts; ++k) {
    weights[k] = k < x.parts ? x.part_lse[k][row] : -kInfinity;
    // NaN must not look like an empty part.
    if (weights[k] > highest || std::isnan(weights[k])) highest = weights[k];
  }
  float sum = 0.0f;
#pragma unroll
  for (int k = 0; k < kMostParts; ++k) {
    weights[k] = highest == -kInfinity ? 0.0f : std::exp(weights[k] - highest);
    sum += weights[k];
  }
  if (highest == -kInfinity) return -kInfinity;
#pragma unroll
  for (int k = 0; k < kMostParts; ++k) weights[k] /= sum;
  return highest + std::log(sum);
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kBlockThreads)
    merge_kernel(MergeArrays<T> x, int64_t rows, RowLanes map) {
  const int64_t row = int64_t{blockIdx.x} * (kBlockThreads >> map.lane_bits) + map.row();
  const bool exists = row < rows;
  float weights[kMostParts] = {};
  const float lse = exists ? weigh(x, row, weights) : 0.0f;
  sync_warp();  // all lanes have read what lse may overwrite
  if (!exists) return;
  for (int64_t unit = map.lane(); unit < map.units; unit += map.lanes()) {
    const int64_t at = (row * map.units + unit) * kWidth;
    Pack<kWidth> sum{};
#pragma unroll
    for (int k = 0; k < kMostParts; ++k) {
      if (k >= x.parts || weights[k] == 0.0f) continue;
      const Pack<kWidth> part = load<kWidth>(x.part_o[k] + at);
      for (int c = 0; c < kWidth; ++c) sum.at[c] += weights[k] * part.at[c];
    }
    store(x.o + at, sum);
  }
  if (map.lane() == 0) x.lse[row] = lse;
}

}  // namespace

void merge_parts(const Stream& stream, const MergeParts& args) {
  const int64_t rows = args.lse.numel();
  with_real_type(args.o.precision, [&](auto zero) {
    using T = decltype(zero);
    MergeArrays<T> x{.o = args.o.as<T>().data,
                     .lse = args.lse.data,
                     .parts = static_cast<int>(args.parts.size())};
    bool is_aligned = are_aligned(x.o) && args.o.shape[3] % kPackWidthOf<T> == 0;
    for (int k = 0; k < x.parts; ++k) {
      const AttendPart& part = args.parts[static_cast<size_t>(k)];
      x.part_o[k] = part.o.as<T>().data;
      x.part_lse[k] = part.lse.data;
      is_aligned = is_aligned && are_aligned(x.part_o[k]);
    }
    const auto run = [&]<int kWidth>() {
      const RowLanes map = row_lanes(args.o.shape[3] / kWidth, kWarpSize);
      launch(stream,
             {.grid = blocks_for(rows, kBlockThreads >> map.lane_bits), .block = kBlockThreads},
             merge_kernel<T, kWidth>, x, rows, map);
    };
    if (is_aligned) {
      run.template operator()<kPackWidthOf<T>>();
    } else {
      run.template operator()<1>();
    }
  });
}

}  // namespace stipple::kernels::cuda
