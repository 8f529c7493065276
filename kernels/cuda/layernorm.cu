// SPDX-License-Identifier: Apache-2.0
// Layer normalisation, bound by memory: what is read again comes from the caches.
//   forward: a team of up to 32 lanes per row, 8 to 256 rows per block of 256 threads.
//   backward: a block of 256 threads per run of 64 rows. First teams as above find the two means of
//   each row; then thread (channel, row) writes dx and sums the parameters' gradients over its
//   rows; then the runs' partial sums are added, a block of 1024 threads per 32 channels, in two
//   stages where they are many.
// Shared memory of backward: 512 bytes of means and 8 KiB of sums.
#include <cmath>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/sums.h"
#include "kernels/layernorm.h"
#include "kernels/runs.h"

namespace stipple::kernels::cuda {
namespace {

constexpr int kRunRows = static_cast<int>(kLayerNormRowRun);

/// The sum of term(channel) over a row by the lanes that stand in it; all of them get it.
template <int kWidth, class Term>
__device__ float row_sum(const RowLanes& map, bool is_row, const Term& term) {
  float sum = 0;
  for (int64_t unit = map.lane(); is_row && unit < map.units; unit += map.lanes()) {
    sum += term(unit * kWidth);
  }
  return lanes_sum(sum, map.lanes());
}

/// T is the storage of y.
template <class T>
struct Forward {
  T* y;
  float *mean, *rstd;
  const float *x, *weight, *bias;
  int64_t rows, channels;
  float eps;
};

template <int kWidth>
__device__ float sum_of(const float* x) {
  const Pack<kWidth> values = load<kWidth>(x);
  float sum = 0;
  for (float value : values.at) sum += value;
  return sum;
}

template <int kWidth>
__device__ float squared_distance(const float* x, float mean) {
  const Pack<kWidth> values = load<kWidth>(x);
  float sum = 0;
  for (float value : values.at) sum += (value - mean) * (value - mean);
  return sum;
}

template <int kWidth, class T>
__global__ void normalize_kernel(Forward<T> f, RowLanes map) {
  const int64_t row = int64_t{blockIdx.x} * (kBlockThreads >> map.lane_bits) + map.row();
  const bool is_row = row < f.rows;
  const float* x = f.x + row * f.channels;
  const auto count = static_cast<float>(f.channels);
  const float mean =
      row_sum<kWidth>(map, is_row, [x](int64_t c) { return sum_of<kWidth>(x + c); }) / count;
  // Squares of differences, not mean(x^2) - mean^2, which cancels when the mean is large.
  const float variance =
      row_sum<kWidth>(map, is_row,
                      [x, mean](int64_t c) { return squared_distance<kWidth>(x + c, mean); }) /
      count;
  if (!is_row) return;
  const float rstd = 1.0f / std::sqrt(variance + f.eps);
  for (int64_t unit = map.lane(); unit < map.units; unit += map.lanes()) {
    const int64_t c = unit * kWidth;
    Pack<kWidth> values = load<kWidth>(x + c);
    const Pack<kWidth> weight = load<kWidth>(f.weight + c), bias = load<kWidth>(f.bias + c);
    for (int j = 0; j < kWidth; ++j) {
      values.at[j] = (values.at[j] - mean) * rstd * weight.at[j] + bias.at[j];
    }
    store(f.y + row * f.channels + c, values);
  }
  if (map.lane() == 0) {
    f.mean[row] = mean;
    f.rstd[row] = rstd;
  }
}

/// T is the storage of dx and dy.
template <class T>
struct Backward {
  T* dx;
  float *dweight, *dbias;  // partial sums of the runs
  const T* dy;
  const float *x, *weight, *mean, *rstd;
  int64_t rows, channels;
};

/// Of the rows of one run, in shared memory.
struct RowMeans {
  float g[kRunRows];
  float g_xhat[kRunRows];
};

/// The gradients of kWidth channels of the parameters, summed over some rows.
template <int kWidth>
struct ParameterSums {
  float dweight[kWidth];
  float dbias[kWidth];
};

template <int kWidth, class T>
__device__ void find_means(const Backward<T>& f, RowMeans& means, int64_t first, RowLanes map) {
  const auto count = static_cast<float>(f.channels);
  const int stride = kBlockThreads >> map.lane_bits;
  for (int begin = 0; begin < kRunRows; begin += stride) {
    const int r = begin + map.row();
    const int64_t row = first + r;
    const bool is_row = r < kRunRows && row < f.rows;
    const float mean = is_row ? f.mean[row] : 0.0f;
    const float rstd = is_row ? f.rstd[row] : 0.0f;
    float g_xhat = 0;
    const float g = row_sum<kWidth>(map, is_row, [&](int64_t c) {
      const Pack<kWidth> dy = load<kWidth>(f.dy + row * f.channels + c);
      const Pack<kWidth> x = load<kWidth>(f.x + row * f.channels + c);
      const Pack<kWidth> weight = load<kWidth>(f.weight + c);
      float sum = 0;
      for (int j = 0; j < kWidth; ++j) {
        const float product = dy.at[j] * weight.at[j];
        sum += product;
        g_xhat += product * ((x.at[j] - mean) * rstd);
      }
      return sum;
    });
    g_xhat = lanes_sum(g_xhat, map.lanes());
    if (map.lane() == 0 && r < kRunRows) {
      means.g[r] = g / count;
      means.g_xhat[r] = g_xhat / count;
    }
  }
}

/// dx of channels [c, c + kWidth) in every row of the run that this thread stands in. dx may be dy
/// itself: each element is read before it is written.
template <int kWidth, class T>
__device__ ParameterSums<kWidth> write_dx(const Backward<T>& f, const RowMeans& means,
                                          int64_t first, int64_t c, RowLanes map) {
  ParameterSums<kWidth> sums{};
  const Pack<kWidth> weight = load<kWidth>(f.weight + c);
  const int count = static_cast<int>(std::min<int64_t>(kRunRows, f.rows - first));
  for (int r = map.row(); r < count; r += kBlockThreads >> map.lane_bits) {
    const int64_t row = first + r, at = row * f.channels + c;
    const float mean = f.mean[row], rstd = f.rstd[row];
    const Pack<kWidth> x = load<kWidth>(f.x + at);
    Pack<kWidth> d = load<kWidth>(f.dy + at);
    for (int j = 0; j < kWidth; ++j) {
      const float dy = d.at[j], xhat = (x.at[j] - mean) * rstd;
      sums.dweight[j] += dy * xhat;
      sums.dbias[j] += dy;
      d.at[j] = rstd * (dy * weight.at[j] - means.g[r] - xhat * means.g_xhat[r]);
    }
    store(f.dx + at, d);
  }
  return sums;
}

/// Adds what the threads above each other hold; those of the first row get it. All threads call.
template <int kWidth>
__device__ ParameterSums<kWidth> add_rows(ParameterSums<kWidth> mine, ParameterSums<kWidth>* shared,
                                          RowLanes map) {
  const auto thread = static_cast<int>(threadIdx.x);
  shared[thread] = mine;
  sync_threads();
  for (int half = kBlockThreads / 2; half >= map.lanes(); half /= 2) {
    if (thread < half) {
      for (int j = 0; j < kWidth; ++j) {
        shared[thread].dweight[j] += shared[thread + half].dweight[j];
        shared[thread].dbias[j] += shared[thread + half].dbias[j];
      }
    }
    sync_threads();
  }
  mine = shared[thread];
  sync_threads();
  return mine;
}

template <int kWidth, class T>
__global__ void backward_kernel(Backward<T> f, RowLanes teams, RowLanes columns) {
  auto& means = *reinterpret_cast<RowMeans*>(shared_memory());
  auto* shared = reinterpret_cast<ParameterSums<kWidth>*>(shared_memory() + sizeof(RowMeans));
  const int64_t first = int64_t{blockIdx.x} * kRunRows;
  find_means<kWidth>(f, means, first, teams);
  sync_threads();
  for (int64_t begin = 0; begin < columns.units; begin += columns.lanes()) {
    const int64_t unit = begin + columns.lane(), c = unit * kWidth;
    ParameterSums<kWidth> sums{};
    if (unit < columns.units) sums = write_dx<kWidth>(f, means, first, c, columns);
    sums = add_rows(sums, shared, columns);
    if (columns.row() != 0 || unit >= columns.units) continue;
    for (int j = 0; j < kWidth; ++j) {
      f.dweight[int64_t{blockIdx.x} * f.channels + c + j] = sums.dweight[j];
      f.dbias[int64_t{blockIdx.x} * f.channels + c + j] = sums.dbias[j];
    }
  }
}

constexpr int kColumns = kWarpSize;
constexpr int kColumnRows = 32;

/// Partial sums that a block adds in the first of two stages.
constexpr int64_t kPartialsRun = 128;

/// Of the weight, and of the bias: sums[i] = the sum of partials [i * run, (i + 1) * run), which
/// stand `pitch` apart; with one run it is added to the gradients. Partial sums may be replaced by
/// the sum of their run in place of the first.
struct ColumnSums {
  float* sums[2];
  const float* partials[2];
  int64_t count, channels;
  int64_t pitch, sums_pitch;
  int64_t run;
  bool adds;
};

__global__ void __launch_bounds__(kColumns* kColumnRows) add_columns_kernel(ColumnSums f) {
  auto* shared = reinterpret_cast<float*>(shared_memory());
  const int64_t tiles = num_runs(f.channels, kColumns);
  const int64_t c = blockIdx.x % tiles * kColumns + lane_index();
  const int64_t part = blockIdx.x / tiles;
  const Range run = nth_run(part, f.count, f.run);
  // Indexed by a variable, the arguments would be copied to the stack.
  const bool is_weight = blockIdx.y == 0;
  const float* partials = is_weight ? f.partials[0] : f.partials[1];
  float sum = 0;
  if (c < f.channels) {
#pragma unroll 4
    for (int64_t i = run.begin + warp_index(); i < run.end; i += kColumnRows) {
      sum += partials[i * f.pitch + c];
    }
  }
  shared[threadIdx.x] = sum;
  sync_threads();
  for (int half = kColumnRows / 2; half > 0; half /= 2) {
    if (warp_index() < half) shared[threadIdx.x] += shared[threadIdx.x + half * kColumns];
    sync_threads();
  }
  if (warp_index() != 0 || c >= f.channels) return;
  float& to = (is_weight ? f.sums[0] : f.sums[1])[part * f.sums_pitch + c];
  to = f.adds ? to + shared[threadIdx.x] : shared[threadIdx.x];
}

void add_columns(const Stream& stream, const ColumnSums& sums) {
  constexpr int kThreads = kColumns * kColumnRows;
  const int64_t blocks = num_runs(sums.count, sums.run) * num_runs(sums.channels, kColumns);
  launch(stream,
         {.grid = dim3(static_cast<unsigned>(blocks), 2),
          .block = kThreads,
          .shared_bytes = kThreads * sizeof(float)},
         add_columns_kernel, sums);
}

/// dweight and dbias += the sums of all runs, which are lost.
void add_partials(const Stream& stream, const LayerNormBackward& args, View<float> dweight,
                  View<float> dbias) {
  const int64_t runs = dweight.shape[1], channels = dweight.shape[2];
  ColumnSums last{.sums = {args.dweight.data, args.dbias.data},
                  .partials = {dweight.data, dbias.data},
                  .count = runs,
                  .channels = channels,
                  .pitch = channels,
                  .sums_pitch = channels,
                  .run = runs,
                  .adds = true};
  if (runs > kPartialsRun) {
    ColumnSums first = last;
    first.sums[0] = dweight.data;
    first.sums[1] = dbias.data;
    first.run = kPartialsRun;
    first.sums_pitch = kPartialsRun * channels;
    first.adds = false;
    add_columns(stream, first);
    last.count = last.run = num_runs(runs, kPartialsRun);
    last.pitch = first.sums_pitch;
  }
  add_columns(stream, last);
}

template <int kWidth, class T>
void launch_forward(const Stream& stream, const Forward<T>& forward) {
  const RowLanes map = row_lanes(forward.channels / kWidth, kWarpSize);
  launch(stream,
         {.grid = blocks_for(forward.rows, kBlockThreads >> map.lane_bits), .block = kBlockThreads},
         normalize_kernel<kWidth, T>, forward, map);
}

template <int kWidth, class T>
void launch_backward(const Stream& stream, const Backward<T>& backward) {
  const int64_t units = backward.channels / kWidth;
  launch(stream,
         {.grid = blocks_for(backward.rows, kRunRows),
          .block = kBlockThreads,
          .shared_bytes = sizeof(RowMeans) + kBlockThreads * sizeof(ParameterSums<kWidth>)},
         backward_kernel<kWidth, T>, backward, row_lanes(units, kWarpSize),
         row_lanes(units, kBlockThreads));
}

}  // namespace

void layernorm(const Stream& stream, const LayerNorm& args) {
  with_real_type(args.y.precision, [&](auto zero) {
    using T = decltype(zero);
    const Forward<T> forward{.y = args.y.as<T>().data,
                             .mean = args.mean.data,
                             .rstd = args.rstd.data,
                             .x = args.x.data,
                             .weight = args.weight.data,
                             .bias = args.bias.data,
                             .rows = args.x.shape[0],
                             .channels = args.x.shape[1],
                             .eps = args.eps};
    const bool is_vector = forward.channels % kPackWidth == 0 &&
                           are_aligned(forward.y, forward.x, forward.weight, forward.bias);
    is_vector ? launch_forward<kPackWidth>(stream, forward) : launch_forward<1>(stream, forward);
  });
}

void layernorm_backward(const Stream& stream, const LayerNormBackward& args) {
  const int64_t rows = args.x.shape[0], channels = args.x.shape[1];
  const int64_t runs = num_runs(rows, kLayerNormRowRun);
  const Arena::Scope scope(*args.scratch);
  const View<float> dweight = args.scratch->alloc<float>({1, runs, channels});
  const View<float> dbias = args.scratch->alloc<float>({1, runs, channels});
  with_real_type(args.dx.precision, [&](auto zero) {
    using T = decltype(zero);
    const Backward<T> backward{.dx = args.dx.as<T>().data,
                               .dweight = dweight.data,
                               .dbias = dbias.data,
                               .dy = args.dy.as<T>().data,
                               .x = args.x.data,
                               .weight = args.weight.data,
                               .mean = args.mean.data,
                               .rstd = args.rstd.data,
                               .rows = rows,
                               .channels = channels};
    const bool is_vector = backward.channels % kPackWidth == 0 &&
                           are_aligned(backward.dx, backward.dy, backward.x, backward.weight);
    is_vector ? launch_backward<kPackWidth>(stream, backward)
              : launch_backward<1>(stream, backward);
  });
  add_partials(stream, args, dweight, dbias);
}

}  // namespace stipple::kernels::cuda
