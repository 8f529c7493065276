// SPDX-License-Identifier: Apache-2.0
// Groups of tokens. Projections and the search for near centroids: a thread a token, whose sums are
// few. Ranks: tokens are sorted by merging runs, 1, 2, 4, ... long; each key finds its place in the
// merged run by a binary search of the other one, a thread a key, log2 N launches. No shared memory.
// Compiled without fused multiply-adds: groups are the CPU's.
#include <limits>

#include "core/arena.h"
#include "core/real_view.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/masks.cuh"
#include "kernels/math/predict.h"
#include "kernels/predict.h"

namespace stipple::kernels::cuda {
namespace {

constexpr int kPredictThreads = 128;

/// Sizes of [B, H, N, *], and who is real.
struct HeadRows {
  int64_t rows;  ///< B H N
  int64_t heads, n;
  const uint8_t* mask;  // [B, N] or null

  __device__ int64_t head(int64_t row) const { return row / n % heads; }
  __device__ bool is_real(int64_t row) const {
    return mask == nullptr || mask[row / (n * heads) * n + row % n] != 0;
  }
};

HeadRows head_rows(const Shape& shape, View<const uint8_t> mask) {
  return {
      .rows = shape[0] * shape[1] * shape[2], .heads = shape[1], .n = shape[2], .mask = mask.data};
}

// --- projection ----------------------------------------------------------------------------------

template <class T>
struct Projection {
  float* y;
  const T* x;
  const float* weight;
  HeadRows tokens;
  int64_t d, r;
  bool to_unit_length;
};

template <class T>
__global__ void __launch_bounds__(kPredictThreads) project_tokens_kernel(Projection<T> f) {
  const int64_t row = thread_of_grid();
  if (row >= f.tokens.rows) return;
  const int64_t h = f.tokens.head(row);
  for (int64_t e = 0; e < f.r; ++e) {
    float sum = 0.0f;
    for (int64_t k = 0; k < f.d; ++k)
      sum += to_float(f.x[row * f.d + k]) * f.weight[(h * f.d + k) * f.r + e];
    f.y[row * f.r + e] = sum;
  }
  if (f.to_unit_length) math::to_unit_length(f.y + row * f.r, f.r);
}

// --- centroids -----------------------------------------------------------------------------------

struct Search {
  int32_t* groups;
  const float* x;
  const float* centroids;
  HeadRows tokens;
  int64_t r, c, slots, first_slot, top;
  int32_t first_group;
  bool is_ranked;
};

__global__ void __launch_bounds__(kPredictThreads) nearest_groups_kernel(Search f) {
  const int64_t row = thread_of_grid();
  if (row >= f.tokens.rows) return;
  int32_t* own = f.groups + row * f.slots + f.first_slot;
  const float* centroids = f.centroids + f.tokens.head(row) * f.c * f.r;
  uint64_t last = 0;
  for (int64_t t = 0; t < f.top; ++t) {
    uint64_t best = std::numeric_limits<uint64_t>::max();
    for (int64_t g = 0; g < f.c; ++g) {
      const uint64_t key = math::centroid_key(f.x + row * f.r, centroids + g * f.r, f.r, g);
      if (key < best && (t == 0 || key > last)) best = key;
    }
    const auto rank = static_cast<int32_t>(f.is_ranked ? t * f.c : 0);
    own[t] = f.tokens.is_real(row) ? f.first_group + math::centroid_of(best) + rank : kNoGroup;
    last = best;
  }
}

// --- buckets -------------------------------------------------------------------------------------

struct Buckets {
  int32_t* groups;
  const float* x;
  HeadRows tokens;
  int64_t r, buckets;
  float temperature;
  bool only_lowest;
};

__global__ void __launch_bounds__(kPredictThreads) quantise_intervals_kernel(Buckets f) {
  const int64_t at = thread_of_grid();
  if (at >= f.tokens.rows * f.r) return;
  const int64_t bucket = math::interval_of(f.x[at], f.temperature, f.buckets);
  f.groups[at] =
      f.tokens.is_real(at / f.r) ? static_cast<int32_t>(at % f.r * f.buckets + bucket) : kNoGroup;
}

/// Keys [B H, R, N] of all tokens.
__global__ void __launch_bounds__(kPredictThreads) rank_keys_kernel(uint64_t* keys, Buckets f) {
  const int64_t at = thread_of_grid();
  if (at >= f.tokens.rows * f.r) return;
  const int64_t n = f.tokens.n, i = at % n, list = at / n;
  const int64_t row = list / f.r * n + i;
  keys[at] = math::rank_key(f.x[row * f.r + list % f.r], f.tokens.is_real(row), i);
}

/// Pairs of neighbouring sorted runs of each list of n become one. Keys differ.
__global__ void __launch_bounds__(kPredictThreads)
    merge_runs_kernel(uint64_t* to, const uint64_t* from, int64_t count, int64_t n, int64_t run) {
  const int64_t at = thread_of_grid();
  if (at >= count) return;
  const int64_t list = at / n * n, i = at % n;
  const int64_t own = i / run * run;
  const int64_t other = i / run % 2 == 0 ? own + run : own - run;
  int64_t low = other < n ? other : n, high = other + run < n ? other + run : n;
  const int64_t begin = low;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (from[list + middle] < from[at]) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  const int64_t merged = own < other ? own : other;
  to[list + merged + (i - own) + (low - begin)] = from[at];
}

/// A block a list: bucket by rank.
__global__ void __launch_bounds__(kPredictThreads)
    quantise_ranks_kernel(const uint64_t* sorted, Buckets f) {
  const int64_t n = f.tokens.n, list = blockIdx.x, p = list / f.r;
  const uint8_t* mask = f.tokens.mask == nullptr ? nullptr : f.tokens.mask + p / f.tokens.heads * n;
  const int64_t real =
      count_real<kPredictThreads>(mask, n, reinterpret_cast<int64_t*>(shared_memory()));
  const int64_t size = math::bucket_size(real, f.buckets);
  const int64_t last = f.only_lowest && size < real ? size : real;
  for (int64_t rank = threadIdx.x; rank < n; rank += kPredictThreads) {
    const int64_t token = math::token_of(sorted[list * n + rank]);
    f.groups[(p * n + token) * f.r + list % f.r] =
        rank < last ? static_cast<int32_t>(list % f.r * f.buckets + rank / size) : kNoGroup;
  }
}

}  // namespace

void project_tokens(const Stream& stream, const ProjectTokens& args) {
  with_real_type(args.x.precision, [&](auto zero) {
    using T = decltype(zero);
    const HeadRows tokens = head_rows(args.x.shape, {});
    launch(stream, thread_each(tokens.rows, kPredictThreads), project_tokens_kernel<T>,
           Projection<T>{.y = args.y.data,
                         .x = args.x.as<T>().data,
                         .weight = args.weight.data,
                         .tokens = tokens,
                         .d = args.x.shape[3],
                         .r = args.y.shape[3],
                         .to_unit_length = args.to_unit_length});
  });
}

void nearest_groups(const Stream& stream, const NearestGroups& args) {
  const HeadRows tokens = head_rows(args.x.shape, args.mask);
  launch(stream, thread_each(tokens.rows, kPredictThreads), nearest_groups_kernel,
         Search{.groups = args.groups.data,
                .x = args.x.data,
                .centroids = args.centroids.data,
                .tokens = tokens,
                .r = args.x.shape[3],
                .c = args.centroids.shape[1],
                .slots = args.groups.shape[3],
                .first_slot = args.first_slot,
                .top = args.top,
                .first_group = args.first_group,
                .is_ranked = args.is_ranked});
}

void quantise_tokens(const Stream& stream, const QuantiseTokens& args) {
  const Buckets f{.groups = args.groups.data,
                  .x = args.x.data,
                  .tokens = head_rows(args.x.shape, args.mask),
                  .r = args.x.shape[3],
                  .buckets = args.buckets,
                  .temperature = args.temperature,
                  .only_lowest = args.kind == Quantisation::kLowest};
  const int64_t count = f.tokens.rows * f.r;
  const Arena::Scope scope(*args.scratch);
  const int64_t sorted = args.kind == Quantisation::kInterval ? 1 : count;
  View<uint64_t> from = args.scratch->alloc<uint64_t>({sorted});
  View<uint64_t> to = args.scratch->alloc<uint64_t>({sorted});
  if (count == 0) return;
  if (args.kind == Quantisation::kInterval)
    return launch(stream, thread_each(count, kPredictThreads), quantise_intervals_kernel, f);
  launch(stream, thread_each(count, kPredictThreads), rank_keys_kernel, from.data, f);
  for (int64_t run = 1; run < f.tokens.n; run *= 2) {
    launch(stream, thread_each(count, kPredictThreads), merge_runs_kernel, to.data, from.data,
           count, f.tokens.n, run);
    std::swap(from, to);
  }
  launch(stream,
         {.grid = blocks_for(count / f.tokens.n, 1),
          .block = kPredictThreads,
          .shared_bytes = kPredictThreads / kWarpSize * sizeof(int64_t)},
         quantise_ranks_kernel, from.data, f);
}

}  // namespace stipple::kernels::cuda
