// SPDX-License-Identifier: Apache-2.0
// Alpha, temperature and statistics of entmax attention's heads. A thread a head, or a block a head
// where a head's queries are summed: in a fixed order, in double.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/masks.cuh"
#include "kernels/entmax_heads.h"
#include "kernels/math/entmax_heads.h"

namespace stipple::kernels::cuda {
namespace {

constexpr int kEntmaxHeadThreads = 256;

LaunchShape a_block_an_entmax_head(int64_t heads) {
  return {.grid = blocks_for(heads, 1),
          .block = kEntmaxHeadThreads,
          .shared_bytes = kEntmaxHeadThreads / kWarpSize * sizeof(double)};
}

__global__ void set_entmax_heads_kernel(SetEntmaxHeads args, int64_t heads) {
  const int64_t h = int64_t{blockIdx.x} * kEntmaxHeadThreads + threadIdx.x;
  if (h >= heads) return;
  if (args.alpha.data != nullptr) args.alpha.data[h] = math::entmax_alpha(args, h);
  if (args.temperature.data != nullptr)
    args.temperature.data[h] = math::entmax_temperature(args.temperature_weight.data, h);
}

/// By a block, which all get it: the sum of its head over samples and queries.
__device__ double sum_of_block_head(const float* shares, int64_t batch, int64_t heads,
                                    int64_t length) {
  double sum = 0.0;
  for (int64_t b = 0; b < batch; ++b) {
    const float* row = shares + (b * heads + blockIdx.x) * length;
    for (int64_t i = threadIdx.x; i < length; i += kEntmaxHeadThreads)
      sum += static_cast<double>(row[i]);
  }
  return block_sum<kEntmaxHeadThreads>(sum, reinterpret_cast<double*>(shared_memory()));
}

__global__ void __launch_bounds__(kEntmaxHeadThreads)
    alpha_weights_kernel(SetEntmaxHeadsBackward args, int64_t batch, int64_t heads,
                         int64_t length) {
  const double sum = sum_of_block_head(args.dalpha.data, batch, heads, length);
  if (threadIdx.x != 0) return;
  const double slope = math::entmax_alpha_slope(args, blockIdx.x);
  args.dalpha_weight.data[blockIdx.x] += static_cast<float>(sum * slope);
}

__global__ void __launch_bounds__(kEntmaxHeadThreads)
    temperature_weights_kernel(SetEntmaxHeadsBackward args, int64_t batch, int64_t heads,
                               int64_t length) {
  const double sum = sum_of_block_head(args.dtemperature.data, batch, heads, length);
  if (threadIdx.x != 0) return;
  const float slope = math::entmax_temperature(args.temperature_weight.data, blockIdx.x);
  args.dtemperature_weight.data[blockIdx.x] += static_cast<float>(sum * static_cast<double>(slope));
}

__global__ void anneal_kernel(Anneal args, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * kEntmaxHeadThreads + threadIdx.x;
  if (i < count) args.values.data[i] = math::annealed(args);
}

__global__ void __launch_bounds__(kEntmaxHeadThreads)
    support_statistics_kernel(SupportStatistics args, int64_t batch, int64_t heads, int64_t n) {
  auto* sums = reinterpret_cast<int64_t*>(shared_memory());
  int64_t edges = 0, pairs = 0, rows = 0;
  for (int64_t b = 0; b < batch; ++b) {
    const uint8_t* mask = args.mask.data == nullptr ? nullptr : args.mask.data + b * n;
    const int32_t* size = args.size.data + (b * heads + blockIdx.x) * n;
    const int64_t real = count_real<kEntmaxHeadThreads>(mask, n, sums);
    rows += real;
    pairs += math::pairs_among(real, args.is_causal);
    for (int64_t i = threadIdx.x; i < n; i += kEntmaxHeadThreads)
      edges += is_real(mask, i) ? size[i] : 0;
  }
  edges = block_sum<kEntmaxHeadThreads>(edges, sums);
  if (threadIdx.x != 0) return;
  args.edges.data[blockIdx.x] = edges;
  args.pairs.data[blockIdx.x] = pairs;
  args.rows.data[blockIdx.x] = rows;
}

}  // namespace

void set_entmax_heads(const Stream& stream, const SetEntmaxHeads& args) {
  const int64_t heads = args.alpha.empty() ? args.temperature.numel() : args.alpha.numel();
  launch(stream, {.grid = blocks_for(heads, kEntmaxHeadThreads), .block = kEntmaxHeadThreads},
         set_entmax_heads_kernel, args, heads);
}

void set_entmax_heads_backward(const Stream& stream, const SetEntmaxHeadsBackward& args) {
  if (!args.dalpha_weight.empty()) {
    const Shape& shape = args.dalpha.shape;
    launch(stream, a_block_an_entmax_head(shape[1]), alpha_weights_kernel, args, shape[0], shape[1],
           shape[2]);
  }
  if (!args.dtemperature_weight.empty()) {
    const Shape& shape = args.dtemperature.shape;
    launch(stream, a_block_an_entmax_head(shape[1]), temperature_weights_kernel, args, shape[0],
           shape[1], shape[2]);
  }
}

void anneal(const Stream& stream, const Anneal& args) {
  const int64_t count = args.values.numel();
  launch(stream, {.grid = blocks_for(count, kEntmaxHeadThreads), .block = kEntmaxHeadThreads},
         anneal_kernel, args, count);
}

void support_statistics(const Stream& stream, const SupportStatistics& args) {
  const Shape& shape = args.size.shape;
  launch(stream, a_block_an_entmax_head(shape[1]), support_statistics_kernel, args, shape[0],
         shape[1], shape[2]);
}

}  // namespace stipple::kernels::cuda
