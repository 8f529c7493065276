// SPDX-License-Identifier: Apache-2.0
// Pooling over sequences, bound by memory.
//   pooling: a block of 512 threads per sequence and 32 channels: 8 threads side by side (32 where
//   channels cannot be moved in fours), the others over tokens; sums in double, then a tree.
//   pooling_backward: a block of 256 threads per sequence and 256 tokens.
// Shared memory of pooling: 20 KiB.
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/sums.h"
#include "kernels/pooling.h"

namespace stipple::kernels::cuda {
namespace {

constexpr int kPoolThreads = 512;
constexpr int kChannelSlice = 32;

struct Pool {
  float* y;
  const float* x;
  const uint8_t* mask;
  int64_t tokens, channels, slices;
  MeanOver mean_over;
  int64_t padded_length;
};

/// 1 / the number of tokens of the mean; 0 when there are none.
__device__ double weight_of_token(MeanOver mean_over, int64_t padded_length, int real_tokens) {
  if (mean_over == MeanOver::kPadded) return 1.0 / static_cast<double>(padded_length);
  if (mean_over == MeanOver::kCls) return 1.0;
  return real_tokens == 0 ? 0.0 : 1.0 / static_cast<double>(real_tokens);
}

/// What a thread, and in the end the first of each column, has seen.
template <int kWidth>
struct TokenSums {
  double of_channel[kWidth];
  int real_tokens;
};

/// Channels [c, c + kWidth) of every kStride-th token.
template <int kWidth, int kStride>
__device__ TokenSums<kWidth> sum_tokens(const Pool& f, int64_t b, int64_t c, int first) {
  TokenSums<kWidth> sums{};
  const bool is_cls = f.mean_over == MeanOver::kCls;
  const int64_t tokens = is_cls ? 1 : f.tokens;
#pragma unroll 4
  for (int64_t n = first; n < tokens; n += kStride) {
    if (!is_cls && f.mask[b * f.tokens + n] == 0) continue;
    ++sums.real_tokens;
    if (c >= f.channels) continue;
    const Pack<kWidth> x = load<kWidth>(f.x + (b * f.tokens + n) * f.channels + c);
    for (int j = 0; j < kWidth; ++j) sums.of_channel[j] += static_cast<double>(x.at[j]);
  }
  return sums;
}

template <int kWidth>
__global__ void pool_kernel(Pool f) {
  constexpr int kLanes = kChannelSlice / kWidth;
  auto* shared = reinterpret_cast<TokenSums<kWidth>*>(shared_memory());
  const auto thread = static_cast<int>(threadIdx.x);
  const int64_t b = blockIdx.x / f.slices;
  const int64_t c = blockIdx.x % f.slices * kChannelSlice + thread % kLanes * kWidth;
  shared[thread] = sum_tokens<kWidth, kPoolThreads / kLanes>(f, b, c, thread / kLanes);
  sync_threads();
  for (int half = kPoolThreads / 2; half >= kLanes; half /= 2) {
    if (thread < half) {
      const TokenSums<kWidth>& other = shared[thread + half];
      for (int j = 0; j < kWidth; ++j) shared[thread].of_channel[j] += other.of_channel[j];
      shared[thread].real_tokens += other.real_tokens;
    }
    sync_threads();
  }
  if (thread >= kLanes || c >= f.channels) return;
  const double weight = weight_of_token(f.mean_over, f.padded_length, shared[thread].real_tokens);
  Pack<kWidth> y;
  for (int j = 0; j < kWidth; ++j) {
    y.at[j] = static_cast<float>(shared[thread].of_channel[j] * weight);
  }
  store(f.y + b * f.channels + c, y);
}

template <int kWidth>
void launch_pool(const Stream& stream, const Pool& pool, int64_t batch) {
  launch(stream,
         {.grid = dim3(static_cast<unsigned>(batch * pool.slices)),
          .block = kPoolThreads,
          .shared_bytes = kPoolThreads * sizeof(TokenSums<kWidth>)},
         pool_kernel<kWidth>, pool);
}

constexpr int kChunkTokens = 256;

struct Spread {
  float* dx;
  const float* dy;
  const uint8_t* mask;
  int64_t tokens, channels, chunks;
  MeanOver mean_over;
  int64_t padded_length;

  __device__ bool is_counted(int64_t b, int64_t n) const {
    return mean_over == MeanOver::kCls ? n == 0 : mask[b * tokens + n] != 0;
  }
};

/// The real tokens of a sequence; every thread gets their number.
__device__ int count_real_tokens(const uint8_t* mask, int64_t tokens) {
  auto* shared = reinterpret_cast<int*>(shared_memory());
  int count = 0;
  for (int64_t n = threadIdx.x; n < tokens; n += kBlockThreads) count += mask[n] != 0 ? 1 : 0;
  return block_sum<kBlockThreads>(count, shared);
}

template <int kWidth>
__global__ void spread_kernel(Spread f, RowLanes map) {
  const int64_t b = blockIdx.x / f.chunks;
  const int64_t begin = blockIdx.x % f.chunks * kChunkTokens;
  const int64_t end = std::min(f.tokens, begin + kChunkTokens);
  const int real_tokens =
      f.mean_over == MeanOver::kValid ? count_real_tokens(f.mask + b * f.tokens, f.tokens) : 0;
  const auto weight =
      static_cast<float>(weight_of_token(f.mean_over, f.padded_length, real_tokens));
  for (int64_t n = begin + map.row(); n < end; n += kBlockThreads >> map.lane_bits) {
    const bool is_counted = f.is_counted(b, n);
    for (int64_t unit = map.lane(); unit < map.units; unit += map.lanes()) {
      const int64_t c = unit * kWidth;
      const Pack<kWidth> dy = load<kWidth>(f.dy + b * f.channels + c);
      Pack<kWidth> dx{};
      for (int j = 0; is_counted && j < kWidth; ++j) dx.at[j] = dy.at[j] * weight;
      store(f.dx + (b * f.tokens + n) * f.channels + c, dx);
    }
  }
}

template <int kWidth>
void launch_spread(const Stream& stream, const Spread& spread, int64_t batch) {
  launch(stream,
         {.grid = dim3(static_cast<unsigned>(batch * spread.chunks)),
          .block = kBlockThreads,
          .shared_bytes = kBlockThreads / kWarpSize * sizeof(int)},
         spread_kernel<kWidth>, spread, row_lanes(spread.channels / kWidth, kBlockThreads));
}

}  // namespace

void pooling(const Stream& stream, const Pooling& args) {
  const int64_t channels = args.x.shape[2];
  const Pool pool{.y = args.y.data,
                  .x = args.x.data,
                  .mask = args.mask.data,
                  .tokens = args.x.shape[1],
                  .channels = channels,
                  .slices = (channels + kChannelSlice - 1) / kChannelSlice,
                  .mean_over = args.mean_over,
                  .padded_length = args.padded_length};
  const bool is_vector = channels % kPackWidth == 0 && are_aligned(pool.y, pool.x);
  const int64_t batch = args.x.shape[0];
  is_vector ? launch_pool<kPackWidth>(stream, pool, batch) : launch_pool<1>(stream, pool, batch);
}

void pooling_backward(const Stream& stream, const PoolingBackward& args) {
  const int64_t tokens = args.dx.shape[1], channels = args.dx.shape[2];
  const Spread spread{.dx = args.dx.data,
                      .dy = args.dy.data,
                      .mask = args.mask.data,
                      .tokens = tokens,
                      .channels = channels,
                      .chunks = (tokens + kChunkTokens - 1) / kChunkTokens,
                      .mean_over = args.mean_over,
                      .padded_length = args.padded_length};
  const bool is_vector = channels % kPackWidth == 0 && are_aligned(spread.dx, spread.dy);
  const int64_t batch = args.dx.shape[0];
  is_vector ? launch_spread<kPackWidth>(stream, spread, batch)
            : launch_spread<1>(stream, spread, batch);
}

}  // namespace stipple::kernels::cuda
