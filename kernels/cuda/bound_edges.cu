// SPDX-License-Identifier: Apache-2.0
// Pairs that bounds leave. Groups: a warp a group looks at all keys for its own, a channel a lane:
// box and mean, then, in a second walk, the ball. Rows: a thread makes 32 bounds of a row, which are
// the bits of one word. The graph is written by a test of these bits for each pair
// (kernels/cuda/write_edges.cu). No shared memory.
#include <limits>

#include "kernels/bound_edges.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/masks.cuh"
#include "kernels/cuda/sums.h"
#include "kernels/graph_to_write.h"
#include "kernels/math/bound.h"
#include "kernels/predict.h"
#include "kernels/write_edges.h"

namespace stipple::kernels::cuda {
namespace {

constexpr int kBoundThreads = 128;

template <class T>
struct BoundInputs {
  const T* q;  // [P, N, D]
  const T* k;  // [P, M, D]
  const float* tau;
  const int32_t* key_groups;  // [P, M, slots]
  float *low, *high, *mean;   // [P, G, D]
  float *radius, *longest;    // [P, G]
  uint32_t* kept;             // [P, N, words]
  const uint8_t* key_mask;
  const float* alpha;
  const float* temperature;
  float scale;
  int64_t problems, heads, n, m, d, slots, groups, words;

  __device__ bool is_member(int64_t p, int64_t j, int64_t group) const {
    const uint8_t* mask = key_mask == nullptr ? nullptr : key_mask + p / heads * m;
    return is_real(mask, j) && key_groups[(p * m + j) * slots] == group;
  }
  __device__ float factor(int64_t p) const {
    const float own = (alpha[p % heads] - 1.0f) * scale;
    return temperature == nullptr ? own : own * temperature[p % heads];
  }
};

template <class T>
__global__ void __launch_bounds__(kBoundThreads) bound_groups_kernel(BoundInputs<T> in) {
  const int64_t warp = thread_of_grid() / kWarpSize;
  if (warp >= in.problems * in.groups) return;
  const int64_t p = warp / in.groups, group = warp % in.groups;
  const T* keys = in.k + p * in.m * in.d;
  float* low = in.low + warp * in.d;
  float* high = in.high + warp * in.d;
  float* mean = in.mean + warp * in.d;
  float size = 0.0f;
  for (int64_t j = 0; j < in.m; ++j) size += in.is_member(p, j, group) ? 1.0f : 0.0f;
  for (int64_t c = lane_index(); c < in.d; c += kWarpSize) {
    float least = std::numeric_limits<float>::infinity(), most = -least, sum = 0.0f;
    for (int64_t j = 0; j < in.m; ++j) {
      if (!in.is_member(p, j, group)) continue;
      const float x = to_float(keys[j * in.d + c]);
      least = x < least ? x : least;
      most = x > most ? x : most;
      sum += x;
    }
    // Of an empty group nothing, so that no infinity meets a zero.
    low[c] = size == 0.0f ? 0.0f : least;
    high[c] = size == 0.0f ? 0.0f : most;
    mean[c] = size == 0.0f ? 0.0f : sum / size;
  }
  sync_warp();
  float radius = 0.0f, longest = 0.0f, all = 0.0f;
  for (int64_t j = 0; j < in.m; ++j) {
    if (!in.is_member(p, j, group)) continue;
    float squares = 0.0f, length = 0.0f;
    for (int64_t c = lane_index(); c < in.d; c += kWarpSize) {
      const float x = to_float(keys[j * in.d + c]), away = x - mean[c];
      squares += away * away;
      length += x * x;
    }
    squares = lanes_sum(squares);
    length = lanes_sum(length);
    radius = squares > radius ? squares : radius;
    longest = length > longest ? length : longest;
    all += squares + length;
  }
  if (lane_index() != 0) return;
  // Keys that are no numbers, or too long, have no ball.
  const bool is_finite = all - all == 0.0f;
  in.radius[warp] = is_finite ? sqrtf(radius) : std::numeric_limits<float>::quiet_NaN();
  in.longest[warp] = sqrtf(longest);
}

template <class T>
__global__ void __launch_bounds__(kBoundThreads) keep_groups_kernel(BoundInputs<T> in) {
  const int64_t at = thread_of_grid();
  if (at >= in.problems * in.n * in.words) return;
  const int64_t row = at / in.words, p = row / in.n, first = at % in.words * 32;
  const float factor = in.factor(p), tau = in.tau[row];
  const T* q = in.q + row * in.d;
  float squares = 0.0f;
  for (int64_t c = 0; c < in.d; ++c) {
    const float x = factor * to_float(q[c]);
    squares += x * x;
  }
  const float length = sqrtf(squares);
  uint32_t bits = 0;
  for (int64_t g = first; g < in.groups && g < first + 32; ++g) {
    const int64_t group = p * in.groups + g;
    float box = 0.0f, ball = 0.0f;
    for (int64_t c = 0; c < in.d; ++c) {
      const float x = factor * to_float(q[c]);
      box += x * (x > 0.0f ? in.high : in.low)[group * in.d + c];
      ball += x * in.mean[group * in.d + c];
    }
    const float slack = math::bound_slack(length, in.longest[group], tau, in.d);
    if (math::may_hold(box, ball + length * in.radius[group], slack, tau))
      bits |= 1u << (g - first);
  }
  in.kept[at] = bits;
}

}  // namespace

void write_bound_edges(const Stream& stream, const WriteBoundEdges& args) {
  const Arena::Scope scope(*args.scratch);
  const EdgeSet& edges = args.edges;
  const int64_t problems = edges.num_problems(), groups = args.num_groups;
  const int64_t n = edges.num_queries, m = edges.num_keys, d = args.q.shape[3];
  const int64_t words = (groups + 31) / 32, slots = args.key_groups.shape[3];
  const auto channels = [&] { return args.scratch->alloc<float>({problems, groups, d}); };
  const View<float> low = channels(), high = channels(), mean = channels();
  const View<float> radius = args.scratch->alloc<float>({problems, groups});
  const View<float> longest = args.scratch->alloc<float>({problems, groups});
  const View<uint32_t> kept = args.scratch->alloc<uint32_t>({problems, n, words});
  if (problems * n * m > 0) {
    with_real_type(args.q.precision, [&](auto zero) {
      using T = decltype(zero);
      const BoundInputs<T> in{.q = args.q.as<T>().data,
                              .k = args.k.as<T>().data,
                              .tau = args.tau.data,
                              .key_groups = args.key_groups.data,
                              .low = low.data,
                              .high = high.data,
                              .mean = mean.data,
                              .radius = radius.data,
                              .longest = longest.data,
                              .kept = kept.data,
                              .key_mask = args.key_mask.data,
                              .alpha = args.heads.alpha.data,
                              .temperature = args.heads.temperature.data,
                              .scale = args.scale,
                              .problems = problems,
                              .heads = args.q.shape[1],
                              .n = n,
                              .m = m,
                              .d = d,
                              .slots = slots,
                              .groups = groups,
                              .words = words};
      launch(stream, thread_each(problems * groups * kWarpSize, kBoundThreads),
             bound_groups_kernel<T>, in);
      launch(stream, thread_each(problems * n * words, kBoundThreads), keep_groups_kernel<T>, in);
    });
  }
  write_graph(stream, {.edges = edges,
                       .form = EdgeForm::kCsr,
                       .query_mask = args.query_mask,
                       .key_mask = args.key_mask,
                       .source = {.pattern = {.is_causal = args.is_causal},
                                  .kept = {.bits = kept.data,
                                           .groups = args.key_groups.data,
                                           .n = n,
                                           .m = m,
                                           .words = words,
                                           .slots = slots}},
                       .scratch = args.scratch});
}

}  // namespace stipple::kernels::cuda
