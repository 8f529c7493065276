// SPDX-License-Identifier: Apache-2.0
// Attention over CSR by gathering rows. Forward: a warp owns a query and reads the K and V rows of
// its edges. Backward: the same warp map for (dq, row_grad), and over CSC a warp owns a key and
// reads the Q and dO rows of its edges for (dk, dv, column_grad). Both passes compute an edge's
// weight and gradient anew, which costs less than moving them; no atomics, fixed order of sums.
//
// Threads: a row lies over lanes of 16 bytes each, so a warp reads 512 bytes of rows with one load
// a lane: of D = 64 in bf16 four. Eight such loads of fp32, four of bf16, from each of two matrices
// are a chunk. Their dot products go through a transposed butterfly, after which each edge of the
// chunk has lanes of its own for softmax, dropout and gradients. Where there are many rows a warp
// takes up to eight, one after the other. Blocks of one problem follow one another, so that the
// rows of the heads at work stay in L2; those of a problem in bits leave at once: 32,768 of them
// (2^20 rows) should take 25 to 50 us.
//
// Shared memory: dropout of the block's problem, 28 bytes. Registers (sm_80 to sm_100, no spills):
// forward of bf16 at most 80, so that 24 warps fit a multiprocessor, of fp32 128; backward by query
// 128 and 168, by key 168.
//
// What bounds it is L2, not arithmetic. Forward reads 4 D + 4 bytes an edge in bf16, 8 D + 4 in
// fp32; backward, both passes, twice that and 4 K or 8 K. Predicted for one H200, B * H = 256,
// N = 4096, 1 % of pairs (43 M edges), bf16, at 60 % of L2's 9.7 TB/s: forward of D = 64 in 1.9 ms
// (11.2 GB) and of D = 32 in 1.0 ms (5.7 GB), backward of D = 64 with K = 128 in 7.7 ms (45 GB).
// Its instructions, about 13 an edge (D = 64), would take 0.9 ms of the first alone.
#include <algorithm>
#include <bit>

#include "kernels/cuda/attend/edge.cuh"
#include "kernels/cuda/attend/parts.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/sums.h"

namespace stipple::kernels::cuda {
namespace {

constexpr int kWarps = 4;  // of a block; each works on rows of its own

/// Elements of a row in the 16 bytes that a lane reads of it.
template <class T>
constexpr int kPerLane = static_cast<int>(sizeof(uint4) / sizeof(T));

/// How a warp reads rows of up to kWidth elements, stored as T. Lane l holds the 16 bytes l %
/// kLanes of the row that its group of kLanes lanes reads.
template <class T, int kWidth, bool kIsAligned>
struct Rows {
  using Element = T;
  static constexpr bool kAligned = kIsAligned;  // rows start on 16 bytes
  static constexpr int kLanes = kWidth / kPerLane<T>;
  static constexpr int kGroups = kWarpSize / kLanes;
  static constexpr int kLoads = sizeof(T) == 4 ? 8 : 4;  // of a chunk
  static constexpr int kEdges = kLoads * kGroups;        // of a chunk; load t reads t * kGroups..
  static constexpr int kCopies = kLanes / kLoads;        // lanes that know the same edge
  // Blocks that a multiprocessor must hold at least, which bounds the registers.
  static constexpr int kForwardBlocks = kIsAligned && sizeof(T) == 2 ? 6 : 4;
  static constexpr int kBackwardBlocksByQuery = sizeof(T) == 2 ? 4 : 3;
  static constexpr int kBackwardBlocksByKey = 3;
  static_assert(kCopies > 0);

  /// First element that this lane holds.
  __device__ static int first_element() { return lane_index() % kLanes * kPerLane<T>; }
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

// --- 16 bytes of a row ---------------------------------------------------------------------------

/// What a lane holds of a row, to compute with. Rows under way stay as they are stored, in a uint4.
template <class T>
struct Numbers {
  float at[kPerLane<T>] = {};
};

template <class T>
__device__ Numbers<T> numbers(const uint4& stored) {
  const uint32_t words[] = {stored.x, stored.y, stored.z, stored.w};
  Numbers<T> x;
#pragma unroll
  for (int c = 0; c < kPerLane<T>; ++c) {
    if constexpr (sizeof(T) == 4) {
      x.at[c] = std::bit_cast<float>(words[c]);
    } else {
      const uint32_t pair = words[c / 2];
      x.at[c] = std::bit_cast<float>(c % 2 == 0 ? pair << 16 : pair & 0xFFFF0000u);
    }
  }
  return x;
}

template <class T>
__device__ uint4 stored_as(const Numbers<T>& x) {
  if constexpr (sizeof(T) == 4) {
    return make_uint4(std::bit_cast<uint32_t>(x.at[0]), std::bit_cast<uint32_t>(x.at[1]),
                      std::bit_cast<uint32_t>(x.at[2]), std::bit_cast<uint32_t>(x.at[3]));
  } else {
    return make_uint4(pack_bf16(x.at[0], x.at[1]), pack_bf16(x.at[2], x.at[3]),
                      pack_bf16(x.at[4], x.at[5]), pack_bf16(x.at[6], x.at[7]));
  }
}

/// Elements first.. of a row of `count`; zeros beyond its end.
template <bool kAligned, class T>
__device__ uint4 load(const T* row, int first, int count) {
  if constexpr (kAligned) {
    return first < count ? *reinterpret_cast<const uint4*>(row + first) : make_uint4(0, 0, 0, 0);
  } else {
    Numbers<T> x;
#pragma unroll
    for (int c = 0; c < kPerLane<T>; ++c) {
      if (first + c < count) x.at[c] = to_float(row[first + c]);
    }
    return stored_as(x);
  }
}

template <bool kAligned, class T>
__device__ void store(T* row, int first, int count, const Numbers<T>& x) {
  if constexpr (kAligned) {
    if (first < count) *reinterpret_cast<uint4*>(row + first) = stored_as(x);
  } else {
#pragma unroll
    for (int c = 0; c < kPerLane<T>; ++c) {
      if (first + c < count) row[first + c] = from_float<T>(x.at[c]);
    }
  }
}

template <class T>
__device__ float dot(const Numbers<T>& a, const Numbers<T>& b) {
  float sum = a.at[0] * b.at[0];
#pragma unroll
  for (int c = 1; c < kPerLane<T>; ++c) sum += a.at[c] * b.at[c];
  return sum;
}

template <class T>
__device__ void add_scaled(Numbers<T>& sum, float factor, const Numbers<T>& a) {
#pragma unroll
  for (int c = 0; c < kPerLane<T>; ++c) sum.at[c] += factor * a.at[c];
}

template <class T>
__device__ void scale(Numbers<T>& a, float factor) {
#pragma unroll
  for (float& x : a.at) x *= factor;
}

/// The sum over the lanes that differ in `lanes` and higher bits.
template <class T>
__device__ Numbers<T> sum_over_groups(Numbers<T> a, int lanes) {
  for (int mask = lanes; mask < kWarpSize; mask *= 2) {
#pragma unroll
    for (float& x : a.at) x += shuffle_xor(x, mask);
  }
  return a;
}

// --- a chunk of edges ----------------------------------------------------------------------------

/// One edge, as its lanes know it.
struct Edge {
  int other = -1;  ///< the key of a query's edge, the query of a key's; -1: no edge
  float drawn = 0.0f;
};

/// The edges of one row.
struct EdgeRow {
  const uint32_t* others;
  const uint16_t* drawn;  ///< null: once each
  int count;

  /// A problem's edges start at `stored`, the row's where `ptr` says.
  __device__ EdgeRow(const uint32_t* all_others, const uint16_t* all_drawn, int64_t stored,
                     const int32_t* ptr)
      : others(all_others + stored + ptr[0]),
        drawn(all_drawn == nullptr ? nullptr : all_drawn + stored + ptr[0]),
        count(ptr[1] - ptr[0]) {}

  __device__ Edge read(int e) const {
    if (e >= count) return {};
    return {static_cast<int>(others[e]), drawn == nullptr ? 1.0f : static_cast<float>(drawn[e])};
  }
};

/// Rows of two matrices, of every edge of a chunk.
template <class R>
struct Chunk {
  uint4 scores[R::kLoads];
  uint4 values[R::kLoads];

  /// Zeros where `other` is -1.
  __device__ Chunk(const typename R::Element* score_rows, const typename R::Element* value_rows,
                   int64_t dim, int other) {
    const int count = static_cast<int>(dim);
    const int first = R::first_element();
#pragma unroll
    for (int t = 0; t < R::kLoads; ++t) {
      const int row = shuffle(other, lane_of_load<R>(t));
      const int64_t offset = int64_t{row} * count;
      scores[t] = values[t] = make_uint4(0, 0, 0, 0);
      if (row < 0) continue;
      scores[t] = load<R::kAligned>(score_rows + offset, first, count);
      values[t] = load<R::kAligned>(value_rows + offset, first, count);
    }
  }
};

/// The product of `own` with the gathered row of this lane's edge.
template <class R>
__device__ float dot_of_edge(const uint4 (&rows)[R::kLoads],
                             const Numbers<typename R::Element>& own) {
  using T = typename R::Element;
  float sums[R::kLoads];
#pragma unroll
  for (int t = 0; t < R::kLoads; ++t) sums[t] = dot(numbers<T>(rows[t]), own);
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
  return lanes_sum(sums[0], R::kCopies);
}

/// sum += factor * row, for every edge; `factor` is this lane's edge's.
template <class R>
__device__ void add_rows(Numbers<typename R::Element>& sum, const uint4 (&rows)[R::kLoads],
                         float factor) {
#pragma unroll
  for (int t = 0; t < R::kLoads; ++t) {
    add_scaled(sum, shuffle(factor, lane_of_load<R>(t)), numbers<typename R::Element>(rows[t]));
  }
}

// --- what a warp works on ------------------------------------------------------------------------

/// A row and its problem.
struct Place {
  int64_t problem;
  int row;
};

/// How a launch shares its rows: warp w of a problem's W takes rows w, w + W, ... Where problems
/// are stored as bits, all that a block does is leave; so there are no more blocks than keep a GPU
/// busy.
struct RowGrid {
  unsigned blocks = 0;  ///< of a problem

  __device__ Place first_place() const {
    return {int64_t{blockIdx.x / blocks},
            static_cast<int>(blockIdx.x % blocks) * kWarps + warp_index()};
  }
  __device__ int step() const { return static_cast<int>(blocks) * kWarps; }
};

/// Dropout of the block's problem, in shared memory. Called by the whole block.
__device__ const ProblemDropout& share_dropout(const AttendArrays& a, int64_t problem) {
  auto* dropout = reinterpret_cast<ProblemDropout*>(shared_memory());
  if (threadIdx.x == 0) *dropout = dropout_of(a, problem);
  sync_threads();
  return *dropout;
}

// --- forward -------------------------------------------------------------------------------------

/// Softmax-weighted sum of rows, seen chunk by chunk.
template <class T>
struct OnlineSoftmax {
  float highest = -kInfinity;
  float sum = 0.0f;  ///< this lane's part
  Numbers<T> rows;

  /// Sums follow the highest score only where a chunk exceeds it.
  __device__ void raise(float score) {
    float top = score;
#pragma unroll
    for (int mask = kWarpSize / 2; mask >= 1; mask /= 2) top = fmaxf(top, shuffle_xor(top, mask));
    if (top <= highest) return;
    const float factor = exp2_fast((highest - top) * kLog2E);
    sum *= factor;
    scale(rows, factor);
    highest = top;
  }
};

template <class R>
__device__ void write_row(const AttendArrays& a, int64_t row,
                          const OnlineSoftmax<typename R::Element>& softmax) {
  using T = typename R::Element;
  const float sum = lanes_sum(softmax.sum);
  Numbers<T> total = sum_over_groups(softmax.rows, R::kLanes);
  if (lane_index() < R::kLanes) {
    scale(total, sum == 0.0f ? 0.0f : 1.0f / sum);
    store<R::kAligned>(static_cast<T*>(a.o) + row * a.dim, R::first_element(),
                       static_cast<int>(a.dim), total);
  }
  if (lane_index() == 0) a.lse[row] = softmax.highest + logf(sum);
}

template <class R>
__device__ void forward_row(const AttendArrays& a, const ProblemDropout& dropout, int64_t p,
                            int i) {
  using T = typename R::Element;
  const int64_t row = p * a.num_queries + i;
  const uint8_t* mask = mask_of(a, p);
  const Numbers<T> q = numbers<T>(load<R::kAligned>(static_cast<const T*>(a.q) + row * a.dim,
                                                    R::first_element(), static_cast<int>(a.dim)));
  const int64_t keys = p * a.num_keys * a.dim;
  const EdgeRow edges(a.graph.by_query, a.graph.query_multiplicity, p * a.graph.query_stride,
                      a.graph.row_ptr + row + p);
  OnlineSoftmax<T> softmax;
  Edge next = edges.read(edge_of_lane<R>());
  for (int e = 0; e < edges.count; e += R::kEdges) {
    Edge edge = next;
    next = edges.read(e + R::kEdges + edge_of_lane<R>());
    if (edge.other >= 0 && mask != nullptr && mask[edge.other] == 0) edge = {};
    const Chunk<R> chunk(static_cast<const T*>(a.k) + keys, static_cast<const T*>(a.v) + keys,
                         a.dim, edge.other);
    const float score = a.scale * dot_of_edge<R>(chunk.scores, q);
    const bool counts = edge.other >= 0;
    softmax.raise(counts ? score : -kInfinity);
    const float weight = counts ? edge.drawn * exp2_fast((score - softmax.highest) * kLog2E) : 0.0f;
    if (lane_index() % R::kCopies == 0) softmax.sum += weight;
    add_rows<R>(softmax.rows, chunk.values, counts ? weight * dropout.factor(i, edge.other) : 0.0f);
  }
  write_row<R>(a, row, softmax);
}

template <class R>
__global__ void __launch_bounds__(kWarps* kWarpSize, R::kForwardBlocks)
    gather_forward_kernel(AttendArrays a, RowGrid grid) {
  const Place first = grid.first_place();
  if (a.graph.form[first.problem] != EdgeForm::kCsr) return;
  const ProblemDropout& dropout = share_dropout(a, first.problem);
  for (int i = first.row; i < a.num_queries; i += grid.step()) {
    forward_row<R>(a, dropout, first.problem, i);
  }
}

// --- backward ------------------------------------------------------------------------------------

/// Backward as seen by the rows that own the edges: queries, or keys.
template <class T>
struct Side {
  int64_t own_count = 0;
  int64_t other_count = 0;
  const T* own_score = nullptr;    ///< q; k
  const T* own_value = nullptr;    ///< dout; v
  const T* other_score = nullptr;  ///< k; q
  const T* other_value = nullptr;  ///< v; dout
  const T* other_clusters = nullptr;
  const int32_t* ptr = nullptr;
  const uint32_t* others = nullptr;
  const uint16_t* drawn = nullptr;
  int64_t stride = 0;         ///< of `others` and `drawn`
  T* score_grad = nullptr;    ///< dq; dk
  T* value_grad = nullptr;    ///< none; dv
  T* cluster_grad = nullptr;  ///< row_grad; column_grad
  bool has_aligned_clusters = false;
};

/// Clusters that a warp holds at once.
template <class T>
constexpr int kSliceClusters = kPerLane<T>* kWarpSize;

/// sum_edges dp * row, for a slice of clusters from `first` on. Few clusters take a part of the
/// lanes, and the warp reads several edges at a time.
template <class R>
struct ClusterSum {
  using T = typename R::Element;
  int clusters;  ///< of a row
  int first;
  int lanes;  ///< for one edge
  Numbers<T> sums;

  __device__ ClusterSum(int64_t all, int64_t from)
      : clusters(static_cast<int>(all)), first(static_cast<int>(from)), lanes(4) {
    while (lanes < kWarpSize && kPerLane<T> * lanes < clusters - first) lanes *= 2;
  }

  __device__ int cluster() const { return first + lane_index() % lanes * kPerLane<T>; }

  template <bool kAligned>
  __device__ void add(const T* matrix, int other, float dp, int edges) {
    const int groups = kWarpSize / lanes;
    static_assert(R::kEdges % (kWarpSize / 4) == 0, "groups must divide a chunk");
#pragma unroll 4
    for (int e = 0; e < edges; e += groups) {
      const int holder = lane_of_edge<R>(e + lane_index() / lanes);
      const int row = shuffle(other, holder);
      const float factor = shuffle(dp, holder);
      if (row < 0) continue;
      add_scaled(sums, factor,
                 numbers<T>(load<kAligned>(matrix + int64_t{row} * clusters, cluster(), clusters)));
    }
  }

  template <bool kAligned>
  __device__ void write(T* row) const {
    const Numbers<T> total = sum_over_groups(sums, lanes);
    if (lane_index() < lanes) store<kAligned>(row, cluster(), clusters, total);
  }
};

template <class R, bool kByKey>
__device__ EdgeFactors read_factors(const AttendArrays& a, int64_t p, int own, const Edge& edge) {
  const int other = edge.other < 0 ? 0 : edge.other;
  const int query = kByKey ? other : own;
  const int key = kByKey ? own : other;
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

/// Everything that the warp's row owns, with a slice of clusters from `first_cluster` on.
template <class R, bool kByKey>
__device__ void backward_row(const AttendArrays& a, const Side<typename R::Element>& side,
                             const ProblemDropout& dropout, const Place& place,
                             int64_t first_cluster) {
  using T = typename R::Element;
  const auto [p, own] = place;
  const int64_t row = p * side.own_count + own;
  const int64_t others = p * side.other_count;
  const int dim = static_cast<int>(a.dim);
  const int first = R::first_element();
  const auto own_score = numbers<T>(load<R::kAligned>(side.own_score + row * dim, first, dim));
  const auto own_value = numbers<T>(load<R::kAligned>(side.own_value + row * dim, first, dim));
  const EdgeRow edges(side.others, side.drawn, p * side.stride, side.ptr + row + p);
  Numbers<T> score_grad;
  Numbers<T> value_grad;
  ClusterSum<R> cluster_grad(a.ste.clusters, first_cluster);
  for (int e = 0; e < edges.count; e += R::kEdges) {
    const Edge edge = edges.read(e + edge_of_lane<R>());
    EdgeFactors factors = read_factors<R, kByKey>(a, p, own, edge);
    const Chunk<R> chunk(side.other_score + others * dim, side.other_value + others * dim, dim,
                         factors.counts ? edge.other : -1);
    factors.score = a.scale * dot_of_edge<R>(chunk.scores, own_score);
    factors.value = dot_of_edge<R>(chunk.values, own_value);
    const EdgeGradient gradient = gradient_of(a, dropout, factors);
    add_rows<R>(score_grad, chunk.scores, gradient.score);
    if constexpr (kByKey) add_rows<R>(value_grad, chunk.values, gradient.weight);
    if (a.ste.clusters == 0) continue;
    const T* matrix = side.other_clusters + others * a.ste.clusters;
    const int in_chunk = edges.count - e < R::kEdges ? edges.count - e : R::kEdges;
    if (side.has_aligned_clusters) {
      cluster_grad.template add<true>(matrix, edge.other, gradient.probability, in_chunk);
    } else {
      cluster_grad.template add<false>(matrix, edge.other, gradient.probability, in_chunk);
    }
  }
  score_grad = sum_over_groups(score_grad, R::kLanes);
  value_grad = sum_over_groups(value_grad, R::kLanes);
  if (lane_index() < R::kLanes) {
    store<R::kAligned>(side.score_grad + row * dim, first, dim, score_grad);
    if constexpr (kByKey) store<R::kAligned>(side.value_grad + row * dim, first, dim, value_grad);
  }
  T* cluster_row = side.cluster_grad + row * a.ste.clusters;
  if (side.has_aligned_clusters) {
    cluster_grad.template write<true>(cluster_row);
  } else {
    cluster_grad.template write<false>(cluster_row);
  }
}

template <class R, bool kByKey>
__global__ void __launch_bounds__(kWarps* kWarpSize,
                                  kByKey ? R::kBackwardBlocksByKey : R::kBackwardBlocksByQuery)
    gather_backward_kernel(AttendArrays a, Side<typename R::Element> side, RowGrid grid) {
  Place place = grid.first_place();
  if (a.graph.form[place.problem] != EdgeForm::kCsr) return;
  const ProblemDropout& dropout = share_dropout(a, place.problem);
  for (; place.row < side.own_count; place.row += grid.step()) {
    // Clusters beyond the registers: the row's edges are walked once more.
    int64_t first = 0;
    do {
      backward_row<R, kByKey>(a, side, dropout, place, first);
      first += kSliceClusters<typename R::Element>;
    } while (first < a.ste.clusters);
  }
}

// --- host ----------------------------------------------------------------------------------------

/// Calls run(Rows<...>{}) with the narrowest rows that hold D elements.
template <class Run>
void with_rows(const AttendArrays& a, const Run& run) {
  STIPPLE_CHECK(a.dim <= kMaxHeadDim, "attention over CSR: head dimension ", a.dim,
                ", at most 128");
  with_real_type(a.storage, [&](auto zero) {
    using T = decltype(zero);
    if (a.dim % kPerLane<T> != 0 || !are_aligned(a.q, a.k, a.v, a.o, a.dout, a.dq, a.dk, a.dv)) {
      return run(Rows<T, 128, false>{});
    }
    if (a.dim <= 32) return run(Rows<T, 32, true>{});
#if !STIPPLE_FEW_HEAD_SIZES
    if (a.dim <= 64) return run(Rows<T, 64, true>{});
#endif
    run(Rows<T, 128, true>{});
  });
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
          .block = dim3(kWarps * kWarpSize),
          .shared_bytes = sizeof(ProblemDropout)};
}

/// Nobody reads what nobody gives: clusters are then 0.
template <class T>
bool has_aligned_clusters(const AttendArrays& a) {
  return a.ste.clusters % kPerLane<T> == 0 &&
         are_aligned(a.ste.y, a.ste.z, a.ste.row_grad, a.ste.column_grad);
}

template <class T>
Side<T> side_by_query(const AttendArrays& a) {
  const GraphArrays& g = a.graph;
  return {.own_count = a.num_queries,
          .other_count = a.num_keys,
          .own_score = static_cast<const T*>(a.q),
          .own_value = static_cast<const T*>(a.dout),
          .other_score = static_cast<const T*>(a.k),
          .other_value = static_cast<const T*>(a.v),
          .other_clusters = static_cast<const T*>(a.ste.z),
          .ptr = g.row_ptr,
          .others = g.by_query,
          .drawn = g.query_multiplicity,
          .stride = g.query_stride,
          .score_grad = static_cast<T*>(a.dq),
          .value_grad = nullptr,
          .cluster_grad = static_cast<T*>(a.ste.row_grad),
          .has_aligned_clusters = has_aligned_clusters<T>(a)};
}

template <class T>
Side<T> side_by_key(const AttendArrays& a) {
  const GraphArrays& g = a.graph;
  return {.own_count = a.num_keys,
          .other_count = a.num_queries,
          .own_score = static_cast<const T*>(a.k),
          .own_value = static_cast<const T*>(a.v),
          .other_score = static_cast<const T*>(a.q),
          .other_value = static_cast<const T*>(a.dout),
          .other_clusters = static_cast<const T*>(a.ste.y),
          .ptr = g.column_ptr,
          .others = g.by_key,
          .drawn = g.key_multiplicity,
          .stride = g.key_stride,
          .score_grad = static_cast<T*>(a.dk),
          .value_grad = static_cast<T*>(a.dv),
          .cluster_grad = static_cast<T*>(a.ste.column_grad),
          .has_aligned_clusters = has_aligned_clusters<T>(a)};
}

template <class R, bool kByKey>
void launch_backward(const Stream& stream, const AttendArrays& a,
                     const Side<typename R::Element>& side) {
  const RowGrid grid = row_grid(a, side.own_count);
  launch(stream, launch_shape(a, grid), gather_backward_kernel<R, kByKey>, a, side, grid);
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
    using T = typename R::Element;
    launch_backward<R, false>(stream, a, side_by_query<T>(a));
    launch_backward<R, true>(stream, a, side_by_key<T>(a));
  });
}

}  // namespace stipple::kernels::cuda
