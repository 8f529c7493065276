// SPDX-License-Identifier: Apache-2.0
// The kernels around cuSPARSE's products: the block-diagonal CSR from bits or CSR, the softmax of
// its rows, and what backward makes of each edge.
//
// Threads: one warp a row, four rows a block; offsets are summed by one warp a problem.
// No shared memory. Bound by HBM: each pass reads and writes a few arrays of 4 bytes an edge.
#include "kernels/cuda/attend/cusparse.h"
#include "kernels/cuda/attend/edge.cuh"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/sums.h"

namespace stipple::kernels::cuda {
namespace {

constexpr int kWarps = 4;

/// The graph as stored, seen from the rows that own its edges.
struct StoredSide {
  const EdgeForm* form;
  const int32_t* ptr;
  const uint32_t* words;
  const uint16_t* drawn;
  int64_t stride;
  int64_t words_per_row;  ///< of bits

  __device__ bool has_bits(int64_t problem) const { return form[problem] == EdgeForm::kBits; }
};

StoredSide stored_side(const AttendArrays& a, const BlockDiagonal& m) {
  const GraphArrays& g = a.graph;
  const int64_t words = bit_words(BitOrder::kLanes, m.columns);
  if (m.owner == EdgeOwner::kQueries) {
    return {g.form, g.row_ptr, g.by_query, g.query_multiplicity, g.query_stride, words};
  }
  return {g.form, g.column_ptr, g.by_key, g.key_multiplicity, g.key_stride, words};
}

struct RowPlace {
  int64_t row;  ///< of the matrix
  int64_t problem;
  int64_t own;  ///< row of the problem
};
__device__ RowPlace row_of_warp(const BlockDiagonal& m) {
  const int64_t row = int64_t{blockIdx.x} * kWarps + warp_index();
  return {row, row / m.rows, row % m.rows};
}

/// How much of a problem's padding comes before row `own`.
__device__ int64_t padding_before(const BlockDiagonal& m, int64_t edges, int64_t own) {
  return (m.capacity - edges) * own / m.rows;
}

/// Entries [begin, end) of a row are edges, [end, padded_end) are padding. Entry e is edge e -
/// stored of the problem.
struct RowEntries {
  int64_t begin;
  int64_t end;
  int64_t padded_end;
  int64_t stored;
};
__device__ RowEntries entries_of(const BlockDiagonal& m, const RowPlace& place) {
  const int64_t edges = m.counts[place.problem];
  const int64_t before = padding_before(m, edges, place.own);
  const int64_t own = padding_before(m, edges, place.own + 1) - before;
  const int64_t padded_end = m.offsets[place.row + 1];
  return {m.offsets[place.row], padded_end - own, padded_end, place.problem * m.capacity + before};
}

__device__ float warp_max(float x) {
#pragma unroll
  for (int mask = kWarpSize / 2; mask >= 1; mask /= 2) x = fmaxf(x, shuffle_xor(x, mask));
  return x;
}

// --- structure -----------------------------------------------------------------------------------

/// offsets[row] = its number of edges.
__global__ void count_edges_kernel(BlockDiagonal m, StoredSide side) {
  const RowPlace place = row_of_warp(m);
  if (place.row >= m.problems * m.rows) return;
  int count = 0;
  if (side.has_bits(place.problem)) {
    const uint32_t* words =
        side.words + place.problem * side.stride + place.own * side.words_per_row;
    for (int64_t w = lane_index(); w < side.words_per_row; w += kWarpSize) {
      count += popcount(words[w]);
    }
    count = lanes_sum(count);
  } else {
    const int32_t* ptr = side.ptr + place.problem * (m.rows + 1) + place.own;
    count = ptr[1] - ptr[0];
  }
  if (lane_index() == 0) m.offsets[place.row] = count;
}

/// Numbers of edges become offsets.
__global__ void sum_offsets_kernel(BlockDiagonal m) {
  const int64_t problem = blockIdx.x;
  const int lane = lane_index();
  int32_t* offsets = m.offsets + problem * m.rows;
  const auto first = static_cast<int32_t>(problem * m.capacity);
  int32_t before = 0;
  for (int64_t base = 0; base < m.rows; base += kWarpSize) {
    const int64_t row = base + lane;
    const int32_t count = row < m.rows ? offsets[row] : 0;
    int32_t sum = count;
#pragma unroll
    for (int delta = 1; delta < kWarpSize; delta *= 2) {
      const int32_t below = shuffle_up(sum, delta);
      if (lane >= delta) sum += below;
    }
    if (row < m.rows) offsets[row] = first + before + sum - count;
    before += shuffle(sum, kWarpSize - 1);
  }
  for (int64_t row = lane; row < m.rows; row += kWarpSize) {
    offsets[row] += static_cast<int32_t>(padding_before(m, before, row));
  }
  if (lane != 0) return;
  m.counts[problem] = before;
  if (problem + 1 == m.problems) {
    m.offsets[m.problems * m.rows] = static_cast<int32_t>(m.problems * m.capacity);
  }
}

__device__ void fill_from_bits(const uint32_t* words, int64_t columns, int32_t first_column,
                               int32_t* to) {
  const int lane = lane_index();
  for (int64_t base = 0; base < columns; base += kWarpSize) {
    const int64_t j = base + lane;
    const BitPlace place = bit_place(BitOrder::kLanes, j);
    const bool is_edge = j < columns && (words[place.word] >> place.bit & 1u) != 0;
    const uint32_t edges = ballot(is_edge);
    if (is_edge) {
      to[popcount(edges & ((1u << lane) - 1u))] = first_column + static_cast<int32_t>(j);
    }
    to += popcount(edges);
  }
}

__global__ void fill_indices_kernel(BlockDiagonal m, StoredSide side) {
  const RowPlace place = row_of_warp(m);
  if (place.row >= m.problems * m.rows) return;
  const auto first_column = static_cast<int32_t>(place.problem * m.columns);
  const uint32_t* words = side.words + place.problem * side.stride;
  const RowEntries entries = entries_of(m, place);
  if (side.has_bits(place.problem)) {
    fill_from_bits(words + place.own * side.words_per_row, m.columns, first_column,
                   m.indices + entries.begin);
    return;
  }
  for (int64_t e = entries.begin + lane_index(); e < entries.end; e += kWarpSize) {
    m.indices[e] = first_column + static_cast<int32_t>(words[e - entries.stored]);
  }
}

/// `what` of every entry that is not an edge.
template <class T, class Value>
__global__ void pad_kernel(BlockDiagonal m, T* entries, Value what) {
  const RowPlace place = row_of_warp(m);
  if (place.row >= m.problems * m.rows) return;
  const RowEntries row = entries_of(m, place);
  for (int64_t e = row.end + lane_index(); e < row.padded_end; e += kWarpSize) {
    entries[e] = what(m, place.problem);
  }
}

struct LastColumn {
  __device__ int32_t operator()(const BlockDiagonal& m, int64_t problem) const {
    return static_cast<int32_t>((problem + 1) * m.columns - 1);
  }
};
struct Zero {
  __device__ float operator()(const BlockDiagonal&, int64_t) const { return 0.0f; }
};

// --- values --------------------------------------------------------------------------------------

/// Column, in its problem, of entry e.
__device__ int column_of(const BlockDiagonal& m, int64_t problem, int64_t e) {
  return m.indices[e] - static_cast<int>(problem * m.columns);
}

/// One edge as the softmax sees it.
struct WeighedEdge {
  int key;
  bool counts;
  float drawn;
};
__device__ WeighedEdge read_edge(const AttendArrays& a, const BlockDiagonal& m,
                                 const StoredSide& side, int64_t problem, const RowEntries& entries,
                                 int64_t e) {
  const int64_t local = e - entries.stored;
  const int key = column_of(m, problem, e);
  const uint8_t* mask = mask_of(a, problem);
  return {
      key, mask == nullptr || mask[key] != 0,
      side.drawn == nullptr ? 1.0f : static_cast<float>(side.drawn[problem * side.stride + local])};
}

__global__ void weigh_edges_kernel(AttendArrays a, BlockDiagonal m, StoredSide side,
                                   float* scores) {
  const RowPlace place = row_of_warp(m);
  if (place.row >= m.problems * m.rows) return;
  const auto [row, problem, i] = place;
  const RowEntries entries = entries_of(m, place);
  const int64_t begin = entries.begin + lane_index();
  const int64_t end = entries.end;
  float highest = -kInfinity;
  for (int64_t e = begin; e < end; e += kWarpSize) {
    if (read_edge(a, m, side, problem, entries, e).counts) highest = fmaxf(highest, scores[e]);
  }
  highest = warp_max(highest);
  float sum = 0.0f;
  for (int64_t e = begin; e < end; e += kWarpSize) {
    const WeighedEdge edge = read_edge(a, m, side, problem, entries, e);
    const float weight =
        edge.counts ? edge.drawn * exp2_fast((scores[e] - highest) * kLog2E) : 0.0f;
    scores[e] = weight;
    sum += weight;
  }
  sum = lanes_sum(sum);
  const ProblemDropout dropout = dropout_of(a, problem);
  for (int64_t e = begin; e < end; e += kWarpSize) {
    const int key = column_of(m, problem, e);
    scores[e] = sum == 0.0f ? 0.0f : scores[e] / sum * dropout.factor(static_cast<int>(i), key);
  }
  if (lane_index() == 0) a.lse[row] = highest + logf(sum);
}

__global__ void differentiate_edges_kernel(AttendArrays a, BlockDiagonal m, StoredSide side,
                                           EdgeValues edges) {
  const RowPlace place = row_of_warp(m);
  if (place.row >= m.problems * m.rows) return;
  const auto [row, problem, own] = place;
  const bool by_key = m.owner == EdgeOwner::kKeys;
  const ProblemDropout dropout = dropout_of(a, problem);
  const uint8_t* mask = mask_of(a, problem);
  const RowEntries entries = entries_of(m, place);
  for (int64_t e = entries.begin + lane_index(); e < entries.end; e += kWarpSize) {
    const int other = column_of(m, problem, e);
    const int query = by_key ? other : static_cast<int>(own);
    const int key = by_key ? static_cast<int>(own) : other;
    const int64_t query_row = problem * a.num_queries + query;
    const uint16_t* drawn = side.drawn;
    const EdgeGradient gradient = gradient_of(
        a, dropout,
        {.query = query,
         .key = key,
         .counts = mask == nullptr || mask[key] != 0,
         .drawn = drawn == nullptr
                      ? 1.0f
                      : static_cast<float>(drawn[problem * side.stride + e - entries.stored]),
         .score = edges.scores[e],
         .value = edges.values[e],
         .lse = a.lse[query_row],
         .delta = a.delta[query_row]});
    edges.scores[e] = gradient.score;
    edges.values[e] = gradient.weight;
    if (edges.probabilities != nullptr) edges.probabilities[e] = gradient.probability;
  }
}

// --- host ----------------------------------------------------------------------------------------

LaunchShape warp_per_row(const BlockDiagonal& m) {
  return {.grid = blocks_for(m.all_rows(), kWarps), .block = dim3(kWarps * kWarpSize)};
}

template <class T, class Value>
void pad(const Stream& stream, const BlockDiagonal& m, T* entries, Value what) {
  launch(stream, warp_per_row(m), pad_kernel<T, Value>, m, entries, what);
}

}  // namespace

void fill_block_diagonal(const Stream& stream, const AttendArrays& a, const BlockDiagonal& m) {
  const StoredSide side = stored_side(a, m);
  launch(stream, warp_per_row(m), count_edges_kernel, m, side);
  launch(stream, {.grid = dim3(static_cast<unsigned>(m.problems)), .block = dim3(kWarpSize)},
         sum_offsets_kernel, m);
  launch(stream, warp_per_row(m), fill_indices_kernel, m, side);
  pad(stream, m, m.indices, LastColumn{});
}

void weigh_edges(const Stream& stream, const AttendArrays& a, const BlockDiagonal& m,
                 float* scores) {
  launch(stream, warp_per_row(m), weigh_edges_kernel, a, m, stored_side(a, m), scores);
  pad(stream, m, scores, Zero{});
}

void differentiate_edges(const Stream& stream, const AttendArrays& a, const BlockDiagonal& m,
                         const EdgeValues& edges) {
  launch(stream, warp_per_row(m), differentiate_edges_kernel, a, m, stored_side(a, m), edges);
  pad(stream, m, edges.scores, Zero{});
  pad(stream, m, edges.values, Zero{});
  if (edges.probabilities != nullptr) pad(stream, m, edges.probabilities, Zero{});
}

}  // namespace stipple::kernels::cuda
