// SPDX-License-Identifier: Apache-2.0
// Graphs that are not drawn. A warp a row, in blocks of 8: lanes take the candidates side by side.
// Bits: the row's words are cleared and bits set by atomics, whose order cannot show. CSR: degrees
// first; when they are offsets, keys are tested again and written at the rank that a ballot gives
// them. Then the graph is finished (kernels/cuda/edges.h). Bound by the tests, of 5 to 20
// instructions, unless a list is read.
#include <algorithm>

#include "core/arena.h"
#include "core/copy.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/edges.h"
#include "kernels/cuda/masks.cuh"
#include "kernels/cuda/sums.h"
#include "kernels/graph_to_write.h"
#include "kernels/write_edges.h"

namespace stipple::kernels::cuda {
namespace {

constexpr int kThreads = 256;

/// What the warps know.
struct WriteInputs {
  WritableGraph graph;
  Wave wave{};
  EdgeSource source;
  const uint8_t* query_mask = nullptr;
  const uint8_t* key_mask = nullptr;
  int64_t heads = 1;
};

/// The row of this warp.
struct Row {
  int64_t p;
  int64_t i;
  Range candidates;  ///< none where the query is not real
  const uint8_t* keys;

  /// Does the candidate, which may lie behind the last one, give an edge to j?
  __device__ bool has(const EdgeSource& source, int64_t candidate, int64_t& j) const {
    if (candidate >= candidates.end) return false;
    j = source.key(candidate);
    return source.has(p, i, j) && is_real(keys, j);
  }
};

__device__ bool find_row(const WriteInputs& in, Row& row) {
  const int64_t warp = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarpSize;
  const int64_t n = in.graph.num_queries;
  const int64_t m = in.graph.num_keys;
  if (warp >= in.wave.count * n) return false;
  const int64_t p = in.wave.first + warp / n;
  const int64_t i = warp % n;
  const int64_t sample = p / in.heads;
  const bool is_there = in.query_mask == nullptr || in.query_mask[sample * n + i] != 0;
  row = {p, i, is_there ? in.source.candidates(p, i, m) : Range{},
         in.key_mask == nullptr ? nullptr : in.key_mask + sample * m};
  return true;
}

__global__ void __launch_bounds__(kThreads)
    begin_graph_kernel(WritableGraph graph, int64_t problems, EdgeForm form) {
  const int64_t p = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (p == 0) *graph.overflow = 0;
  if (p < problems) graph.form[p] = form;
}

/// Degrees, to row_ptr[i + 1], and bits where the graph is to have them.
template <bool kWritesBits>
__global__ void __launch_bounds__(kThreads) count_edges_kernel(WriteInputs in) {
  Row row;
  if (!find_row(in, row)) return;
  const WritableGraph& graph = in.graph;
  uint32_t* bits = graph.by_query + row.p * graph.query_stride + row.i * graph.row_words;
  if (kWritesBits) {
    for (int64_t w = lane_index(); w < graph.row_words; w += kWarpSize) bits[w] = 0;
    sync_warp();
  }
  int32_t degree = 0;
  for (int64_t e = row.candidates.begin + lane_index(); e < row.candidates.end; e += kWarpSize) {
    int64_t j = 0;
    if (!row.has(in.source, e, j)) continue;
    ++degree;
    if (!kWritesBits) continue;
    const BitPlace place = bit_place(BitOrder::kLanes, j);
    atomic_or(bits + place.word, 1u << place.bit);
  }
  degree = lanes_sum(degree);
  if (lane_index() == 0) graph.row_ptr[row.p * (graph.num_queries + 1) + row.i + 1] = degree;
}

/// Columns, row_ptr being complete.
__global__ void __launch_bounds__(kThreads) write_columns_kernel(WriteInputs in) {
  Row row;
  if (!find_row(in, row)) return;
  const WritableGraph& graph = in.graph;
  const int32_t* row_ptr = graph.row_ptr + row.p * (graph.num_queries + 1) + row.i;
  const int64_t room = row_ptr[1] - row_ptr[0];
  uint32_t* columns = graph.by_query + row.p * graph.query_stride + row_ptr[0];
  int64_t written = 0;
  for (int64_t e = row.candidates.begin; e < row.candidates.end && written < room; e += kWarpSize) {
    int64_t j = 0;
    const bool is_edge = row.has(in.source, e + lane_index(), j);
    const uint32_t edges = ballot(is_edge);
    const int64_t at = written + popcount(edges & ((1u << lane_index()) - 1));
    if (is_edge && at < room) columns[at] = static_cast<uint32_t>(j);
    written += popcount(edges);
  }
}

LaunchShape warp_a_row(const WriteInputs& in) {
  return {.grid = blocks_for(in.wave.count * in.graph.num_queries * kWarpSize, kThreads),
          .block = kThreads};
}

void write_wave(const Stream& stream, const WriteInputs& in, EdgeForm form, int64_t problems,
                View<int32_t> cursors) {
  if (form == EdgeForm::kBits) {
    launch(stream, warp_a_row(in), count_edges_kernel<true>, in);
    sum_degrees(stream, in.graph, in.wave, problems);
    return transpose_bits(stream, in.graph, in.wave);
  }
  launch(stream, warp_a_row(in), count_edges_kernel<false>, in);
  sum_degrees(stream, in.graph, in.wave, problems);
  launch(stream, warp_a_row(in), write_columns_kernel, in);
  transpose_csr(stream, in.graph, in.wave, cursors);
}

}  // namespace

void write_graph(const Stream& stream, const GraphToWrite& graph) {
  const EdgeSet& edges = graph.edges;
  const int64_t problems = edges.num_problems();
  const Arena::Scope scope(*graph.scratch);
  View<int32_t> cursors;
  if (graph.form == EdgeForm::kCsr) cursors = alloc_cursors(*graph.scratch, edges);
  if (problems == 0) return fill_zero(stream, edges.overflow);
  WriteInputs in{.graph = writable_graph(edges),
                 .source = graph.source,
                 .query_mask = graph.query_mask.data,
                 .key_mask = graph.key_mask.data,
                 .heads = graph.heads()};
  launch(stream, {.grid = blocks_for(problems, kThreads), .block = kThreads}, begin_graph_kernel,
         in.graph, problems, graph.form);
  if (edges.num_queries == 0 || edges.num_keys == 0) {
    fill_zero(stream, edges.row_ptr);
    fill_zero(stream, edges.column_ptr);
    return;
  }
  const int64_t wave = graph.form == EdgeForm::kBits ? problems : cursors.shape[0];
  for (int64_t first = 0; first < problems; first += wave) {
    in.wave = {first, std::min(wave, problems - first)};
    write_wave(stream, in, graph.form, problems, cursors);
  }
}

}  // namespace stipple::kernels::cuda
