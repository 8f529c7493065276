// SPDX-License-Identifier: Apache-2.0
// Classification loss and its gradient: one pass over memory, what is read again comes from the
// caches.
//   A block of 512 threads per run of 16 rows, a warp per row, its lanes over the classes; thread 0
//   adds the run's losses in row order; then one block of 1024 threads adds the runs.
//   By place: one block, a warp per place, its lanes over all rows.
// Shared memory: one LossPartial per warp.
#include <cmath>
#include <limits>

#include "kernels/cross_entropy.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/sums.h"
#include "kernels/math/exponential.h"
#include "kernels/runs.h"

namespace stipple::kernels::cuda {
namespace {

constexpr int kRunRows = static_cast<int>(kLossRowRun);
constexpr int kRunThreads = kRunRows * kWarpSize;
constexpr int kSumThreads = 1024;

struct Loss {
  float* dlogits;       // null: not wanted
  int32_t* prediction;  // null: not wanted
  float* row_loss;      // null: not wanted
  const float* logits;
  const int32_t* labels;
  const float* scale;
  int64_t rows, classes;
};

struct Largest {
  float value;
  int32_t index;
};

/// By the whole warp; the lowest index wins a tie.
__device__ Largest find_largest(const float* logits, int64_t classes) {
  Largest best{-std::numeric_limits<float>::infinity(), std::numeric_limits<int32_t>::max()};
  for (int64_t c = lane_index(); c < classes; c += kWarpSize) {
    const float value = logits[c];
    if (value > best.value || c == lane_index()) best = {value, static_cast<int32_t>(c)};
  }
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
    const Largest other{shuffle_xor(best.value, mask), shuffle_xor(best.index, mask)};
    const bool is_tie = other.value == best.value && other.index < best.index;
    if (other.value > best.value || is_tie) best = other;
  }
  // NaNs compare to nothing, so lanes may differ: lane 0 decides, which starts at a real class.
  return {shuffle(best.value, 0), shuffle(best.index, 0)};
}

/// By the whole warp. dlogits may be logits itself: each lane reads its elements before it writes
/// them, and the label's is read before the warp comes together.
__device__ LossPartial row_loss(const Loss& f, int64_t row) {
  const float* logits = f.logits + row * f.classes;
  float* dlogits = f.dlogits == nullptr ? nullptr : f.dlogits + row * f.classes;
  const int32_t label = f.labels[row];
  const bool is_counted = label >= 0;
  const Largest best = find_largest(logits, f.classes);
  const float of_label = is_counted ? logits[label] : 0.0f;
  if (f.prediction != nullptr && lane_index() == 0) f.prediction[row] = best.index;
  double sum = 0;
  for (int64_t c = lane_index(); is_counted && c < f.classes; c += kWarpSize) {
    sum += static_cast<double>(math::exponential(logits[c] - best.value));
  }
  sum = lanes_sum(sum);
  sync_warp();  // exchanges do not order memory
  const float scale = *f.scale;
  const float factor = is_counted ? static_cast<float>(scale / sum) : 0.0f;
  for (int64_t c = lane_index(); dlogits != nullptr && c < f.classes; c += kWarpSize) {
    const float softmax = is_counted ? math::exponential(logits[c] - best.value) * factor : 0.0f;
    dlogits[c] = c == label ? softmax - scale : softmax;
  }
  const double loss =
      is_counted ? std::log(sum) + static_cast<double>(best.value) - static_cast<double>(of_label)
                 : 0.0;
  if (f.row_loss != nullptr && lane_index() == 0) f.row_loss[row] = static_cast<float>(loss);
  if (!is_counted) return {};
  return {.loss = loss, .correct = best.index == label ? 1 : 0, .count = 1};
}

__global__ void losses_kernel(LossPartial* partials, Loss f) {
  auto* shared = reinterpret_cast<LossPartial*>(shared_memory());
  const int64_t row = int64_t{blockIdx.x} * kRunRows + warp_index();
  const LossPartial mine = row < f.rows ? row_loss(f, row) : LossPartial{};
  if (lane_index() == 0) shared[warp_index()] = mine;
  sync_threads();
  if (threadIdx.x != 0) return;
  LossPartial sum;
  for (int r = 0; r < kRunRows; ++r) {
    sum.loss += shared[r].loss;
    sum.correct += shared[r].correct;
    sum.count += shared[r].count;
  }
  partials[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kSumThreads)
    add_losses_kernel(double* loss_sum, int64_t* correct, int64_t* count,
                      const LossPartial* partials, int64_t runs) {
  LossPartial sum;
  for (int64_t i = threadIdx.x; i < runs; i += kSumThreads) {
    sum.loss += partials[i].loss;
    sum.correct += partials[i].correct;
    sum.count += partials[i].count;
  }
  sum.loss = block_sum<kSumThreads>(sum.loss, reinterpret_cast<double*>(shared_memory()));
  auto* shared = reinterpret_cast<int64_t*>(shared_memory());
  sum.correct = block_sum<kSumThreads>(sum.correct, shared);
  sum.count = block_sum<kSumThreads>(sum.count, shared);
  if (threadIdx.x != 0) return;
  *loss_sum += sum.loss;
  *correct += sum.correct;
  *count += sum.count;
}

struct Places {
  double* loss_sum;
  int64_t* count;
  const float* row_loss;
  const int32_t* labels;
  int64_t rows, places, first_row, sequence, block;
};

__global__ void loss_by_place_kernel(Places f) {
  const int64_t own = warp_index();
  double loss = 0;
  int64_t count = 0;
  for (int64_t row = lane_index(); row < f.rows; row += kWarpSize) {
    const int64_t token = (f.first_row + row) % f.sequence;
    if (f.labels[row] < 0 || token % f.block * f.places / f.block != own) continue;
    loss += static_cast<double>(f.row_loss[row]);
    ++count;
  }
  loss = lanes_sum(loss);
  count = lanes_sum(count);
  if (lane_index() != 0) return;
  f.loss_sum[own] += loss;
  f.count[own] += count;
}

}  // namespace

void cross_entropy(const Stream& stream, const CrossEntropy& args) {
  const int64_t runs = num_runs(args.logits.shape[0], kLossRowRun);
  if (runs == 0) return;
  const Arena::Scope scope(*args.scratch);
  const View<LossPartial> partials = args.scratch->alloc<LossPartial>({runs});
  const Loss loss{.dlogits = args.dlogits.data,
                  .prediction = args.prediction.data,
                  .row_loss = args.row_loss.data,
                  .logits = args.logits.data,
                  .labels = args.labels.data,
                  .scale = args.scale.data,
                  .rows = args.logits.shape[0],
                  .classes = args.logits.shape[1]};
  launch(stream,
         {.grid = dim3(static_cast<unsigned>(runs)),
          .block = kRunThreads,
          .shared_bytes = kRunRows * sizeof(LossPartial)},
         losses_kernel, partials.data, loss);
  launch(
      stream,
      {.grid = 1, .block = kSumThreads, .shared_bytes = kSumThreads / kWarpSize * sizeof(double)},
      add_losses_kernel, args.loss_sum.data, args.correct.data, args.count.data, partials.data,
      runs);
}

void loss_by_place(const Stream& stream, const LossByPlace& args) {
  const Places places{.loss_sum = args.loss_sum.data,
                      .count = args.count.data,
                      .row_loss = args.row_loss.data,
                      .labels = args.labels.data,
                      .rows = args.labels.numel(),
                      .places = args.loss_sum.numel(),
                      .first_row = args.first_row,
                      .sequence = args.sequence,
                      .block = args.block};
  launch(stream, {.grid = 1, .block = static_cast<unsigned>(places.places) * kWarpSize},
         loss_by_place_kernel, places);
}

}  // namespace stipple::kernels::cuda
