// SPDX-License-Identifier: Apache-2.0
// Attention over CSR by gathering rows. Forward: a warp owns a query and reads the K and V rows of
// its edges. Backward: the same warp map for (dq, row_grad), and over CSC a warp owns a key and
// reads the Q and dO rows of its edges for (dk, dv, column_grad). Both passes compute an edge's
// weight and gradient anew, which costs less than moving them; no atomics, fixed order of sums.
//
// Threads: a row of D floats lies over D / 4 lanes, so a warp reads 128 / D rows with one 16-byte
// load a lane; eight such loads are a chunk. Their dot products go through a transposed butterfly,
// after which each edge of the chunk has lanes of its own for softmax, dropout and gradients.
// Where there are many rows a warp takes up to eight, one after the other. Blocks of one problem
// follow one another, so that the rows of the heads at work stay in L2; those of a problem in bits
// leave at once: 32,768 of them (2^20 rows) should take 25 to 50 us.
//
// No shared memory. What bounds it is L2, not arithmetic: 8 D bytes an edge forward, 16 D + 8 K
// backward (both passes). Rows stay fp32 under every Precision.
#include <algorithm>

#include "kernels/cuda/attend_edge.cuh"
#include "kernels/cuda/attend_parts.h"
#include "kernels/cuda/device.cuh"

namespace stipple::kernels::cuda {
namespace {

constexpr int kWarps = 4;  // of a block; each works on rows of its own

/// How a warp reads rows of up to kWidth floats. Lane l holds floats 4 (l % kLanes)..+3 of the row
/// that its group of kLanes lanes reads.
template <int kWidth, bool kIsAligned>
struct Rows {
  static constexpr bool kAligned = kIsAligned;  // rows start on 16 bytes
  static constexpr int kLanes = kWidth / 4;
  static constexpr int kGroups = kWarpSize / kLanes;
  static constexpr int kLoads = kLanes < 8 ? kLanes : 8;  // of a chunk
  static constexpr int kEdges = kLoads * kGroups;         // of a chunk; load t reads t * kGroups..
  static constexpr int kCopies = kLanes / kLoads;         // lanes that know the same edge
};

/// Which edge of a chunk is this lane's.
template <class R>
__device__ int edge_of_lane() {
  const int lane = lane_index();
  return lane % R::kLanes / R::kCopies * R::kGroups + lane / R::kLanes;
}
template <class R>
__device__ int lane_of_edge(int edge) {
  return edge % R::kGroups * R::kLanes + edge / R::kGroups * R::kCopies;
}
/// The lane that knows the edge which this lane's group reads with load t.
template <class R>
__device__ int lane_of_load(int t) {
  return lane_index() / R::kLanes * R::kLanes + t * R::kCopies;
}

// --- four floats ---------------------------------------------------------------------------------

/// Elements first..first+3 of a row of `count`; zeros beyond its end.
template <bool kAligned>
__device__ float4 load_four(const float* row, int64_t first, int64_t count) {
  if constexpr (kAligned) {
    return first < count ? *reinterpret_cast<const float4*>(row + first)
                         : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  } else {
    const auto at = [&](int64_t x) { return x < count ? row[x] : 0.0f; };
    return make_float4(at(first), at(first + 1), at(first + 2), at(first + 3));
  }
}

template <bool kAligned>
__device__ void store_four(float* row, int64_t first, int64_t count, float4 value) {
  if constexpr (kAligned) {
    if (first < count) *reinterpret_cast<float4*>(row + first) = value;
  } else {
    if (first < count) row[first] = value.x;
    if (first + 1 < count) row[first + 1] = value.y;
    if (first + 2 < count) row[first + 2] = value.z;
    if (first + 3 < count) row[first + 3] = value.w;
  }
}

__device__ float dot(float4 a, float4 b) { return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }

__device__ void add_scaled(float4& sum, float factor, float4 a) {
  sum.x += factor * a.x;
  sum.y += factor * a.y;
  sum.z += factor * a.z;
  sum.w += factor * a.w;
}

__device__ float4 scaled(float factor, float4 a) {
  return make_float4(factor * a.x, factor * a.y, factor * a.z, factor * a.w);
}

/// The sum over the lanes that differ in `lanes` and higher bits.
__device__ float4 sum_over_groups(float4 a, int lanes) {
  for (int mask = lanes; mask < kWarpSize; mask *= 2) {
    a.x += shuffle_xor(a.x, mask);
    a.y += shuffle_xor(a.y, mask);
    a.z += shuffle_xor(a.z, mask);
    a.w += shuffle_xor(a.w, mask);
  }
  return a;
}

// --- a chunk of edges ----------------------------------------------------------------------------

/// One edge, as its lanes know it.
struct Edge {
  int other = -1;  ///< the key of a query's edge, the query of a key's; -1: no edge
  float drawn = 0.0f;
};

__device__ Edge read_edge(const uint32_t* others, const uint16_t* drawn, int64_t e, int64_t end) {
  if (e >= end) return {};
  return {static_cast<int>(others[e]), drawn == nullptr ? 1.0f : static_cast<float>(drawn[e])};
}

/// Load t's row of every edge in `rows[t]`; zeros where `other` is -1.
template <class R>
__device__ void gather(float4 (&rows)[R::kLoads], const float* matrix, int64_t dim, int other) {
  const int64_t first = lane_index() % R::kLanes * 4;
#pragma unroll
  for (int t = 0; t < R::kLoads; ++t) {
    const int row = shuffle(other, lane_of_load<R>(t));
    rows[t] = row < 0 ? make_float4(0.0f, 0.0f, 0.0f, 0.0f)
                      : load_four<R::kAligned>(matrix + row * dim, first, dim);
  }
}

/// The product of `own` with the gathered row of this lane's edge.
template <class R>
__device__ float dot_of_edge(const float4 (&rows)[R::kLoads], float4 own) {
  float sums[R::kLoads];
#pragma unroll
  for (int t = 0; t < R::kLoads; ++t) sums[t] = dot(rows[t], own);
    // Each step halves both the lanes still to be summed and the sums that a lane keeps.
#pragma unroll
  for (int kept = R::kLoads / 2; kept >= 1; kept /= 2) {
    const int mask = kept * R::kCopies;
    const bool keeps_upper = (lane_index() & mask) != 0;
#pragma unroll
    for (int t = 0; t < kept; ++t) {
      const float mine = keeps_upper ? sums[t + kept] : sums[t];
      const float given = keeps_upper ? sums[t] : sums[t + kept];
      sums[t] = mine + shuffle_xor(given, mask);
    }
  }
#pragma unroll
  for (int mask = R::kCopies / 2; mask >= 1; mask /= 2) sums[0] += shuffle_xor(sums[0], mask);
  return sums[0];
}

/// sum += factor * row, for every edge; `factor` is this lane's edge's.
template <class R>
__device__ void add_rows(float4& sum, const float4 (&rows)[R::kLoads], float factor) {
#pragma unroll
  for (int t = 0; t < R::kLoads; ++t) {
    add_scaled(sum, shuffle(factor, lane_of_load<R>(t)), rows[t]);
  }
}

// --- what a warp works on ------------------------------------------------------------------------

/// A row and its problem.
struct Place {
  int64_t problem;
  int64_t row;
};

/// How a launch shares its rows: warp w of a problem's W takes rows w, w + W, ... Where problems
/// are stored as bits, all that a block does is leave; so there are no more blocks than keep a GPU
/// busy.
struct RowGrid {
  unsigned blocks = 0;  ///< of a problem

  __device__ Place first_place() const {
    return {int64_t{blockIdx.x / blocks}, int64_t{blockIdx.x % blocks} * kWarps + warp_index()};
  }
  __device__ int64_t step() const { return int64_t{blocks} * kWarps; }
};

// --- forward -------------------------------------------------------------------------------------

/// Softmax-weighted sum of rows, seen chunk by chunk.
struct OnlineSoftmax {
  float highest = -kInfinity;
  float sum = 0.0f;  ///< this lane's part
  float4 rows = make_float4(0.0f, 0.0f, 0.0f, 0.0f);

  /// Sums follow the highest score only where a chunk exceeds it.
  __device__ void raise(float score) {
    float top = score;
#pragma unroll
    for (int mask = kWarpSize / 2; mask >= 1; mask /= 2) top = fmaxf(top, shuffle_xor(top, mask));
    if (top <= highest) return;
    const float factor = exp2_fast((highest - top) * kLog2E);
    sum *= factor;
    rows = scaled(factor, rows);
    highest = top;
  }
};

template <class R>
__device__ void write_row(const AttendArrays& a, int64_t row, const OnlineSoftmax& softmax) {
  float sum = softmax.sum;
#pragma unroll
  for (int mask = kWarpSize / 2; mask >= 1; mask /= 2) sum += shuffle_xor(sum, mask);
  const float4 total = sum_over_groups(softmax.rows, R::kLanes);
  const int lane = lane_index();
  if (lane < R::kLanes) {
    store_four<R::kAligned>(a.o + row * a.dim, lane * 4, a.dim,
                            scaled(sum == 0.0f ? 0.0f : 1.0f / sum, total));
  }
  if (lane == 0) a.lse[row] = softmax.highest + logf(sum);
}

template <class R>
__device__ void forward_row(const AttendArrays& a, int64_t p, int64_t i) {
  const int64_t row = p * a.num_queries + i;
  const uint8_t* mask = mask_of(a, p);
  const ProblemDropout dropout = dropout_of(a, p);
  const float4 q = load_four<R::kAligned>(a.q + row * a.dim, lane_index() % R::kLanes * 4, a.dim);
  const int64_t keys = p * a.num_keys * a.dim;
  const int64_t stored = p * a.graph.query_stride;
  const uint16_t* drawn =
      a.graph.query_multiplicity == nullptr ? nullptr : a.graph.query_multiplicity + stored;
  const int32_t* ptr = a.graph.row_ptr + row + p;  // a problem has one offset more than queries
  const int64_t end = ptr[1];
  OnlineSoftmax softmax;
  for (int64_t e = ptr[0]; e < end; e += R::kEdges) {
    Edge edge = read_edge(a.graph.by_query + stored, drawn, e + edge_of_lane<R>(), end);
    if (edge.other >= 0 && mask != nullptr && mask[edge.other] == 0) edge = {};
    float4 k[R::kLoads];
    float4 v[R::kLoads];
    gather<R>(k, a.k + keys, a.dim, edge.other);
    gather<R>(v, a.v + keys, a.dim, edge.other);
    const float score = a.scale * dot_of_edge<R>(k, q);
    const bool counts = edge.other >= 0;
    softmax.raise(counts ? score : -kInfinity);
    const float weight = counts ? edge.drawn * exp2_fast((score - softmax.highest) * kLog2E) : 0.0f;
    if (lane_index() % R::kCopies == 0) softmax.sum += weight;
    add_rows<R>(softmax.rows, v, counts ? weight * dropout.factor(i, edge.other) : 0.0f);
  }
  write_row<R>(a, row, softmax);
}

template <class R>
__global__ void __launch_bounds__(kWarps* kWarpSize)
    gather_forward_kernel(AttendArrays a, RowGrid grid) {
  const Place first = grid.first_place();
  if (a.graph.form[first.problem] != EdgeForm::kCsr) return;
  for (int64_t i = first.row; i < a.num_queries; i += grid.step()) {
    forward_row<R>(a, first.problem, i);
  }
}

// --- backward ------------------------------------------------------------------------------------

/// Backward as seen by the rows that own the edges: queries, or keys.
struct Side {
  int64_t own_count = 0;
  int64_t other_count = 0;
  const float* own_score = nullptr;    ///< q; k
  const float* own_value = nullptr;    ///< dout; v
  const float* other_score = nullptr;  ///< k; q
  const float* other_value = nullptr;  ///< v; dout
  const float* other_clusters = nullptr;
  const int32_t* ptr = nullptr;
  const uint32_t* others = nullptr;
  const uint16_t* drawn = nullptr;
  int64_t stride = 0;             ///< of `others` and `drawn`
  float* score_grad = nullptr;    ///< dq; dk
  float* value_grad = nullptr;    ///< none; dv
  float* cluster_grad = nullptr;  ///< row_grad; column_grad
  bool has_aligned_clusters = false;
};

constexpr int kSliceClusters = 4 * kWarpSize;
constexpr int kBackwardBlocks = 3;  // at least, on a multiprocessor: at most 168 registers

/// sum_edges dp * row, for up to kSlices * 128 clusters from `first` on. Few clusters take a part
/// of the lanes, and the warp reads several edges at a time.
template <class R, int kSlices>
struct ClusterSum {
  int clusters;  ///< of a row
  int first;
  int lanes;  ///< for one edge
  float4 sums[kSlices];

  __device__ ClusterSum(int64_t all, int64_t from)
      : clusters(static_cast<int>(all)), first(static_cast<int>(from)), lanes(4) {
    while (lanes < kWarpSize && 4 * lanes < clusters - first) lanes *= 2;
#pragma unroll
    for (float4& sum : sums) sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  }

  __device__ int cluster(int slice) const {
    return first + lane_index() % lanes * 4 + slice * kSliceClusters;
  }

  template <bool kAligned>
  __device__ void add(const float* matrix, int other, float dp, int edges) {
    const int groups = kWarpSize / lanes;  // divides kEdges
#pragma unroll(4 / kSlices)
    for (int e = 0; e < edges; e += groups) {
      const int holder = lane_of_edge<R>(e + lane_index() / lanes);
      const int row = shuffle(other, holder);
      const float factor = shuffle(dp, holder);
      if (row < 0) continue;
#pragma unroll
      for (int s = 0; s < kSlices; ++s) {
        add_scaled(sums[s], factor,
                   load_four<kAligned>(matrix + int64_t{row} * clusters, cluster(s), clusters));
      }
    }
  }

  __device__ void write(float* row) const {
#pragma unroll
    for (int s = 0; s < kSlices; ++s) {
      const float4 total = sum_over_groups(sums[s], lanes);
      if (lane_index() < lanes) store_four<false>(row, cluster(s), clusters, total);
    }
  }
};

template <class R, bool kByKey>
__device__ EdgeFactors read_factors(const AttendArrays& a, int64_t p, int64_t own,
                                    const Edge& edge) {
  const int64_t other = edge.other < 0 ? 0 : edge.other;
  const int64_t query = kByKey ? other : own;
  const int64_t key = kByKey ? own : other;
  const uint8_t* mask = mask_of(a, p);
  const int64_t row = p * a.num_queries + query;
  return {.query = query,
          .key = key,
          .counts = edge.other >= 0 && (mask == nullptr || mask[key] != 0),
          .drawn = edge.drawn,
          .score = 0.0f,
          .value = 0.0f,
          .lse = a.lse[row],
          .delta = a.delta[row]};
}

/// Everything that the warp's row owns, with the clusters from `first_cluster` on.
template <class R, bool kByKey, int kSlices>
__device__ void backward_row(const AttendArrays& a, const Side& side, const Place& place,
                             int64_t first_cluster) {
  const auto [p, own] = place;
  const int64_t row = p * side.own_count + own;
  const int64_t others = p * side.other_count;
  const int64_t first = lane_index() % R::kLanes * 4;
  const ProblemDropout dropout = dropout_of(a, p);
  const float4 own_score = load_four<R::kAligned>(side.own_score + row * a.dim, first, a.dim);
  const float4 own_value = load_four<R::kAligned>(side.own_value + row * a.dim, first, a.dim);
  const uint16_t* drawn = side.drawn == nullptr ? nullptr : side.drawn + p * side.stride;
  const int32_t* ptr = side.ptr + row + p;  // a problem has one offset more than rows
  const int64_t end = ptr[1];
  float4 score_grad = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  float4 value_grad = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  ClusterSum<R, kSlices == 0 ? 1 : kSlices> cluster_grad(a.ste.clusters, first_cluster);
  for (int64_t e = ptr[0]; e < end; e += R::kEdges) {
    const Edge edge = read_edge(side.others + p * side.stride, drawn, e + edge_of_lane<R>(), end);
    EdgeFactors factors = read_factors<R, kByKey>(a, p, own, edge);
    const int counted = factors.counts ? edge.other : -1;
    float4 score_rows[R::kLoads];
    float4 value_rows[R::kLoads];
    gather<R>(score_rows, side.other_score + others * a.dim, a.dim, counted);
    gather<R>(value_rows, side.other_value + others * a.dim, a.dim, counted);
    factors.score = a.scale * dot_of_edge<R>(score_rows, own_score);
    factors.value = dot_of_edge<R>(value_rows, own_value);
    const EdgeGradient gradient = gradient_of(a, dropout, factors);
    add_rows<R>(score_grad, score_rows, gradient.score);
    if constexpr (kByKey) add_rows<R>(value_grad, value_rows, gradient.weight);
    if constexpr (kSlices > 0) {
      const float* matrix = side.other_clusters + others * a.ste.clusters;
      const int edges = end - e < R::kEdges ? static_cast<int>(end - e) : R::kEdges;
      if (side.has_aligned_clusters) {
        cluster_grad.template add<true>(matrix, edge.other, gradient.probability, edges);
      } else {
        cluster_grad.template add<false>(matrix, edge.other, gradient.probability, edges);
      }
    }
  }
  score_grad = sum_over_groups(score_grad, R::kLanes);
  value_grad = sum_over_groups(value_grad, R::kLanes);
  if (lane_index() < R::kLanes) {
    store_four<R::kAligned>(side.score_grad + row * a.dim, first, a.dim, score_grad);
    if constexpr (kByKey) {
      store_four<R::kAligned>(side.value_grad + row * a.dim, first, a.dim, value_grad);
    }
  }
  if constexpr (kSlices > 0) cluster_grad.write(side.cluster_grad + row * a.ste.clusters);
}

template <class R, bool kByKey, int kSlices>
__global__ void __launch_bounds__(kWarps* kWarpSize, kBackwardBlocks)
    gather_backward_kernel(AttendArrays a, Side side, RowGrid grid) {
  Place place = grid.first_place();
  if (a.graph.form[place.problem] != EdgeForm::kCsr) return;
  for (; place.row < side.own_count; place.row += grid.step()) {
    // Clusters beyond the registers: the row's edges are walked once more.
    int64_t first = 0;
    do {
      backward_row<R, kByKey, kSlices>(a, side, place, first);
      first += int64_t{kSlices} * kSliceClusters;
    } while (kSlices > 0 && first < a.ste.clusters);
  }
}

// --- host ----------------------------------------------------------------------------------------

template <class... Pointers>
bool are_aligned(Pointers... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % sizeof(float4) == 0) && ...);
}

/// Calls run(Rows<...>{}) with the narrowest rows that hold D floats.
template <class Run>
void with_rows(const AttendArrays& a, const Run& run) {
  STIPPLE_CHECK(a.dim <= kMaxHeadDim, "attention over CSR: head dimension ", a.dim,
                ", at most 128");
  if (a.dim % 4 != 0 || !are_aligned(a.q, a.k, a.v, a.o, a.dout, a.dq, a.dk, a.dv)) {
    return run(Rows<128, false>{});
  }
  if (a.dim <= 16) return run(Rows<16, true>{});
  if (a.dim <= 32) return run(Rows<32, true>{});
  if (a.dim <= 64) return run(Rows<64, true>{});
  run(Rows<128, true>{});
}

/// One row a warp, unless there are many: then up to eight.
RowGrid row_grid(const AttendArrays& a, int64_t rows) {
  constexpr int64_t kEnoughBlocks = 4096;
  constexpr int64_t kMostRows = 8;
  const int64_t blocks = a.problems() * ((rows + kWarps - 1) / kWarps);
  const int64_t rows_per_warp = std::clamp<int64_t>(blocks / kEnoughBlocks, 1, kMostRows);
  return {blocks_for(rows, kWarps * rows_per_warp).x};
}

LaunchShape launch_shape(const AttendArrays& a, const RowGrid& grid) {
  return {.grid = dim3(static_cast<unsigned>(a.problems()) * grid.blocks),
          .block = dim3(kWarps * kWarpSize)};
}

Side side_by_query(const AttendArrays& a) {
  const GraphArrays& g = a.graph;
  return {a.num_queries,
          a.num_keys,
          a.q,
          a.dout,
          a.k,
          a.v,
          a.ste.z,
          g.row_ptr,
          g.by_query,
          g.query_multiplicity,
          g.query_stride,
          a.dq,
          nullptr,
          a.ste.row_grad,
          a.ste.clusters % 4 == 0 && are_aligned(a.ste.z)};
}

Side side_by_key(const AttendArrays& a) {
  const GraphArrays& g = a.graph;
  return {a.num_keys,
          a.num_queries,
          a.k,
          a.v,
          a.q,
          a.dout,
          a.ste.y,
          g.column_ptr,
          g.by_key,
          g.key_multiplicity,
          g.key_stride,
          a.dk,
          a.dv,
          a.ste.column_grad,
          a.ste.clusters % 4 == 0 && are_aligned(a.ste.y)};
}

template <class R, bool kByKey>
void launch_backward(const Stream& stream, const AttendArrays& a, const Side& side) {
  const RowGrid grid = row_grid(a, side.own_count);
  const LaunchShape shape = launch_shape(a, grid);
  if (a.ste.clusters == 0) {
    launch(stream, shape, gather_backward_kernel<R, kByKey, 0>, a, side, grid);
  } else if (a.ste.clusters <= kSliceClusters) {
    launch(stream, shape, gather_backward_kernel<R, kByKey, 1>, a, side, grid);
  } else {
    launch(stream, shape, gather_backward_kernel<R, kByKey, 2>, a, side, grid);
  }
}

}  // namespace

void attend_gather(const Stream& stream, const AttendArrays& a) {
  const RowGrid grid = row_grid(a, a.num_queries);
  with_rows(a, [&]<class R>(R) {
    launch(stream, launch_shape(a, grid), gather_forward_kernel<R>, a, grid);
  });
}

void attend_gather_backward(const Stream& stream, const AttendArrays& a) {
  with_rows(a, [&]<class R>(R) {
    launch_backward<R, false>(stream, a, side_by_query(a));
    launch_backward<R, true>(stream, a, side_by_key(a));
  });
}

}  // namespace stipple::kernels::cuda
