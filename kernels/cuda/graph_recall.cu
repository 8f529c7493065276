// SPDX-License-Identifier: Apache-2.0
// What a predicted graph is worth: a warp a row, lanes take its edges side by side; then a block of
// 256 threads a head adds its rows, each every 256th. Shared memory: a number per warp.
#include "core/arena.h"
#include "core/real_view.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/masks.cuh"
#include "kernels/cuda/sums.h"
#include "kernels/graph_recall.h"
#include "kernels/math/graph_recall.h"

namespace stipple::kernels::cuda {
namespace {

/// What both kernels know.
struct RecallInputs {
  int32_t* found;   // [B, H, N]
  double* dropped;  // [B, H, N]
  const int32_t* row_ptr;
  const uint32_t* columns;
  const float *tau, *alpha, *temperature;
  const int32_t* support_size;
  const uint8_t* query_mask;
  int64_t column_stride;
  int64_t b, h, n, m, d;
  float scale;

  __device__ bool is_real_row(int64_t row) const {
    return query_mask == nullptr || query_mask[row / (n * h) * n + row % n] != 0;
  }
  /// Where the edges of row i of problem p begin, and behind it where they end.
  __device__ const int32_t* edges_of(int64_t row) const {
    return row_ptr + row / n * (n + 1) + row % n;
  }
};

template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    row_recall_kernel(RecallInputs in, const T* q, const T* k) {
  const int64_t row = (int64_t{blockIdx.x} * kBlockThreads + threadIdx.x) / kWarpSize;
  if (row >= in.b * in.h * in.n || !in.is_real_row(row)) return;
  const int64_t p = row / in.n, head = p % in.h;
  const float temperature = in.temperature == nullptr ? 1.0f : in.temperature[head];
  const math::EntmaxWeight weight =
      math::entmax_weight(in.alpha[head], temperature, in.scale, in.tau[row]);
  const int32_t* edges = in.edges_of(row);
  math::RowRecall recall;
  for (int32_t e = edges[0] + lane_index(); e < edges[1]; e += kWarpSize) {
    const int64_t j = in.columns[p * in.column_stride + e];
    float dot = 0.0f;
    for (int64_t c = 0; c < in.d; ++c)
      dot += to_float(q[row * in.d + c]) * to_float(k[(p * in.m + j) * in.d + c]);
    recall.add(weight, dot);
  }
  recall.weight = lanes_sum(recall.weight);
  recall.found = lanes_sum(recall.found);
  if (lane_index() != 0) return;
  const int32_t size = in.support_size[row];
  in.found[row] = recall.found < size ? recall.found : size;
  in.dropped[row] = recall.dropped();
}

struct RecallSums {
  int64_t *support, *found, *edges, *exact_rows, *rows;
  double* dropped;
};

__global__ void __launch_bounds__(kBlockThreads)
    head_recall_kernel(RecallInputs in, RecallSums to) {
  const int64_t head = blockIdx.x;
  int64_t support = 0, found = 0, edges = 0, exact = 0, rows = 0;
  double dropped = 0.0;
  for (int64_t e = threadIdx.x; e < in.b * in.n; e += kBlockThreads) {
    const int64_t row = (e / in.n * in.h + head) * in.n + e % in.n;
    if (!in.is_real_row(row)) continue;
    const int32_t* own = in.edges_of(row);
    ++rows;
    support += in.support_size[row];
    found += in.found[row];
    edges += own[1] - own[0];
    exact += in.found[row] >= in.support_size[row] ? 1 : 0;
    dropped += in.dropped[row];
  }
  auto* places = reinterpret_cast<int64_t*>(shared_memory());
  support = block_sum<kBlockThreads>(support, places);
  found = block_sum<kBlockThreads>(found, places);
  edges = block_sum<kBlockThreads>(edges, places);
  exact = block_sum<kBlockThreads>(exact, places);
  rows = block_sum<kBlockThreads>(rows, places);
  dropped = block_sum<kBlockThreads>(dropped, reinterpret_cast<double*>(shared_memory()));
  if (threadIdx.x != 0) return;
  to.support[head] = support;
  to.found[head] = found;
  to.edges[head] = edges;
  to.exact_rows[head] = exact;
  to.rows[head] = rows;
  to.dropped[head] = dropped;
}

}  // namespace

void graph_recall(const Stream& stream, const GraphRecall& args) {
  const Shape& q = args.q.shape;
  const Arena::Scope scope(*args.scratch);
  const RecallInputs in{.found = args.scratch->alloc<int32_t>({q[0], q[1], q[2]}).data,
                        .dropped = args.scratch->alloc<double>({q[0], q[1], q[2]}).data,
                        .row_ptr = args.graph.row_ptr.data,
                        .columns = args.graph.storage.data,
                        .tau = args.tau.data,
                        .alpha = args.heads.alpha.data,
                        .temperature = args.heads.temperature.data,
                        .support_size = args.support_size.data,
                        .query_mask = args.query_mask.data,
                        .column_stride = args.graph.storage.shape[1],
                        .b = q[0],
                        .h = q[1],
                        .n = q[2],
                        .m = args.k.shape[2],
                        .d = q[3],
                        .scale = args.scale};
  with_real_type(args.q.precision, [&](auto zero) {
    using T = decltype(zero);
    launch(
        stream,
        {.grid = blocks_for(q[0] * q[1] * q[2] * kWarpSize, kBlockThreads), .block = kBlockThreads},
        row_recall_kernel<T>, in, args.q.as<T>().data, args.k.as<T>().data);
  });
  launch(stream,
         {.grid = blocks_for(q[1], 1),
          .block = kBlockThreads,
          .shared_bytes = kBlockThreads / kWarpSize * sizeof(double)},
         head_recall_kernel, in,
         RecallSums{.support = args.support.data,
                    .found = args.found.data,
                    .edges = args.edges.data,
                    .exact_rows = args.exact_rows.data,
                    .rows = args.rows.data,
                    .dropped = args.dropped.data});
}

}  // namespace stipple::kernels::cuda
