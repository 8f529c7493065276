// SPDX-License-Identifier: Apache-2.0
// Graphs of shared groups. The keys of each group: a warp a group looks at all keys, 32 at a time,
// and writes those it finds at the rank that a ballot gives them; they ascend. Rows: a warp a row, in
// blocks of 4. Each of the row's lists has its cursor in a lane; pairs that are always there are two
// lists more, of all numbers in a range. The lists go together through blocks of 1024 keys, of which
// only those with an edge are looked at: lanes set bits in shared memory, 128 bytes a warp, so that a
// key is there once however many lists it is in. Bits are counted, or written at their rank, and the
// graph is finished (kernels/cuda/edges.h).
#include <algorithm>
#include <limits>

#include "core/arena.h"
#include "core/copy.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/edges.h"
#include "kernels/cuda/masks.cuh"
#include "kernels/cuda/sums.h"
#include "kernels/group_edges.h"
#include "kernels/predict.h"

namespace stipple::kernels::cuda {
namespace {

constexpr int kGroupThreads = 128;
constexpr int kGroupWarps = kGroupThreads / kWarpSize;
constexpr int64_t kBlockKeys = kWarpSize * 32;  ///< a word of bits a lane

/// What the warps know.
struct GroupInputs {
  WritableGraph graph;
  Wave wave{};
  const int32_t* query_groups;  // [P, N, T]
  const int32_t* key_groups;    // [P, M, T]
  int32_t* offsets;             // [P, G + 1]
  uint32_t* members;            // [P, M T]
  const uint8_t* query_mask;
  const uint8_t* key_mask;
  int64_t heads, slots, num_groups;
  math::AlwaysThere always;
  bool is_causal;

  __device__ const uint8_t* keys_of(int64_t p) const {
    return key_mask == nullptr ? nullptr : key_mask + p / heads * graph.num_keys;
  }
  __device__ bool is_real_query(int64_t p, int64_t i) const {
    return query_mask == nullptr || query_mask[p / heads * graph.num_queries + i] != 0;
  }
};

__device__ int64_t warp_of_grid() {
  return (int64_t{blockIdx.x} * kGroupThreads + threadIdx.x) / kWarpSize;
}

// --- keys of groups ------------------------------------------------------------------------------

__device__ bool is_member(const GroupInputs& in, int64_t p, int64_t j, int64_t group) {
  if (j >= in.graph.num_keys || !is_real(in.keys_of(p), j)) return false;
  const int32_t* own = in.key_groups + (p * in.graph.num_keys + j) * in.slots;
  for (int64_t t = 0; t < in.slots; ++t)
    if (own[t] == group) return true;
  return false;
}

/// Sizes, to offsets[g + 1]; with kWrites the keys, offsets being complete.
template <bool kWrites>
__global__ void __launch_bounds__(kGroupThreads)
    find_members_kernel(GroupInputs in, int64_t problems) {
  const int64_t warp = warp_of_grid();
  if (warp >= problems * in.num_groups) return;
  const int64_t p = warp / in.num_groups, group = warp % in.num_groups;
  int32_t* offsets = in.offsets + p * (in.num_groups + 1) + group;
  uint32_t* members = in.members + p * in.graph.num_keys * in.slots + (kWrites ? offsets[0] : 0);
  int64_t size = 0;
  for (int64_t first = 0; first < in.graph.num_keys; first += kWarpSize) {
    const int64_t j = first + lane_index();
    const bool is_in = is_member(in, p, j, group);
    const uint32_t all = ballot(is_in);
    if (kWrites && is_in)
      members[size + popcount(all & ((1u << lane_index()) - 1))] = static_cast<uint32_t>(j);
    size += popcount(all);
  }
  if (!kWrites && lane_index() == 0) offsets[1] = static_cast<int32_t>(size);
}

/// Sizes become offsets: a warp a problem.
__global__ void __launch_bounds__(kGroupThreads)
    sum_sizes_kernel(GroupInputs in, int64_t problems) {
  const int64_t p = warp_of_grid();
  if (p >= problems) return;
  int32_t* offsets = in.offsets + p * (in.num_groups + 1);
  int32_t before = 0;
  for (int64_t first = 0; first < in.num_groups; first += kWarpSize) {
    const int64_t g = first + lane_index();
    const int32_t up_to = before + running_sum(g < in.num_groups ? offsets[g + 1] : 0);
    sync_warp();
    if (g < in.num_groups) offsets[g + 1] = up_to;
    before = shuffle(up_to, kWarpSize - 1);
  }
  if (lane_index() == 0) offsets[0] = 0;
}

// --- rows ----------------------------------------------------------------------------------------

/// One list of a row: entries [at, end) of `keys`, or these numbers themselves.
struct KeyList {
  const uint32_t* keys;  ///< null: a range
  int64_t at, end;

  __device__ int64_t key(int64_t e) const { return keys == nullptr ? e : int64_t{keys[e]}; }
};

/// The row of this warp.
class GroupRow {
 public:
  __device__ GroupRow(const GroupInputs& in, int64_t p, int64_t i)
      : lists_(static_cast<int>(in.slots) + 2), mask_(in.keys_of(p)) {
    const int64_t m = in.graph.num_keys;
    limit_ = in.is_causal && i + 1 < m ? i + 1 : m;
    own_ = {nullptr, 0, 0};
    if (!in.is_real_query(p, i)) return;
    const int lane = lane_index();
    if (lane < in.slots) own_ = group_list(in, p, i, lane);
    if (lane == in.slots) own_.end = i < in.always.globals ? limit_ : least(in.always.globals);
    if (lane == in.slots + 1 && in.always.radius >= 0)
      own_ = {nullptr, i > in.always.radius ? i - in.always.radius : 0,
              least(i + in.always.radius + 1)};
  }

  /// Calls visit(first, bits) by all lanes: bit e of a lane says whether the row has key first + e.
  /// `words`: of this warp, one a lane.
  template <class Visit>
  __device__ void for_each_word(uint32_t* words, const Visit& visit) {
    constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
    for (;;) {
      int64_t next = own_.at < own_.end ? own_.key(own_.at) : kNone;
      if (next >= limit_) next = kNone;
      for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
        const int64_t other = shuffle_xor(next, mask);
        next = other < next ? other : next;
      }
      if (next == kNone) return;
      const int64_t base = next / kBlockKeys * kBlockKeys;
      words[lane_index()] = 0;
      sync_warp();
      for (int list = 0; list < lists_; ++list) take_list(list, base, words);
      sync_warp();
      visit(base + lane_index() * 32, words[lane_index()]);
      sync_warp();
    }
  }

 private:
  __device__ int64_t least(int64_t keys) const { return keys < limit_ ? keys : limit_; }

  __device__ static KeyList group_list(const GroupInputs& in, int64_t p, int64_t i, int64_t slot) {
    const int32_t group = in.query_groups[(p * in.graph.num_queries + i) * in.slots + slot];
    if (group == kNoGroup) return {nullptr, 0, 0};
    const int32_t* offsets = in.offsets + p * (in.num_groups + 1) + group;
    return {in.members + p * in.graph.num_keys * in.slots, offsets[0], offsets[1]};
  }

  /// Sets the bits of what list `list` has in the block, and moves its cursor behind that.
  __device__ void take_list(int list, int64_t base, uint32_t* words) {
    const int64_t behind = least(base + kBlockKeys);
    const KeyList all{
        reinterpret_cast<const uint32_t*>(shuffle(reinterpret_cast<uint64_t>(own_.keys), list)),
        shuffle(own_.at, list), shuffle(own_.end, list)};
    int64_t at = all.at;
    for (;;) {
      const int64_t e = at + lane_index();
      const int64_t key = e < all.end ? all.key(e) : behind;
      const bool is_in = key < behind;
      // A range may begin before the block: its numbers there have been taken, or are not real.
      if (is_in && is_real(mask_, key))
        atomic_or(words + (key - base) / 32, 1u << (key - base) % 32);
      const int taken = popcount(ballot(is_in));
      at += taken;
      if (taken < kWarpSize) break;
    }
    if (lane_index() == list) own_.at = at;
  }

  int lists_;
  const uint8_t* mask_;
  int64_t limit_;
  KeyList own_;  ///< of this lane
};

__device__ bool find_group_row(const GroupInputs& in, int64_t& p, int64_t& i) {
  const int64_t warp = warp_of_grid();
  if (warp >= in.wave.count * in.graph.num_queries) return false;
  p = in.wave.first + warp / in.graph.num_queries;
  i = warp % in.graph.num_queries;
  return true;
}

__device__ uint32_t* words_of_warp() {
  return reinterpret_cast<uint32_t*>(shared_memory()) + warp_index() * kWarpSize;
}

__global__ void __launch_bounds__(kGroupThreads)
    begin_group_graph_kernel(WritableGraph graph, int64_t problems) {
  const int64_t p = int64_t{blockIdx.x} * kGroupThreads + threadIdx.x;
  if (p == 0) *graph.overflow = 0;
  if (p < problems) graph.form[p] = EdgeForm::kCsr;
}

/// Degrees, to row_ptr[i + 1].
__global__ void __launch_bounds__(kGroupThreads) count_group_edges_kernel(GroupInputs in) {
  int64_t p = 0, i = 0;
  if (!find_group_row(in, p, i)) return;
  int32_t degree = 0;
  GroupRow(in, p, i).for_each_word(words_of_warp(),
                                   [&](int64_t, uint32_t bits) { degree += popcount(bits); });
  degree = lanes_sum(degree);
  if (lane_index() == 0) in.graph.row_ptr[p * (in.graph.num_queries + 1) + i + 1] = degree;
}

/// Columns, row_ptr being complete.
__global__ void __launch_bounds__(kGroupThreads) write_group_edges_kernel(GroupInputs in) {
  int64_t p = 0, i = 0;
  if (!find_group_row(in, p, i)) return;
  const int32_t* row_ptr = in.graph.row_ptr + p * (in.graph.num_queries + 1) + i;
  const int64_t room = row_ptr[1] - row_ptr[0];
  uint32_t* columns = in.graph.by_query + p * in.graph.query_stride + row_ptr[0];
  int64_t written = 0;
  GroupRow(in, p, i).for_each_word(words_of_warp(), [&](int64_t first, uint32_t bits) {
    const int32_t own = popcount(bits), up_to = running_sum(own);
    int64_t at = written + up_to - own;
    for (; bits != 0 && at < room; bits &= bits - 1, ++at)
      columns[at] = static_cast<uint32_t>(first + lowest_bit(bits));
    written += shuffle(up_to, kWarpSize - 1);
  });
}

LaunchShape warp_each(int64_t count) {
  return {.grid = blocks_for(count * kWarpSize, kGroupThreads),
          .block = kGroupThreads,
          .shared_bytes = kGroupWarps * kWarpSize * sizeof(uint32_t)};
}

}  // namespace

void write_group_edges(const Stream& stream, const WriteGroupEdges& args) {
  const EdgeSet& edges = args.edges;
  const int64_t problems = edges.num_problems(), slots = args.key_groups.shape[3];
  const Arena::Scope scope(*args.scratch);
  const View<int32_t> cursors = alloc_cursors(*args.scratch, edges);
  GroupInputs in{.graph = writable_graph(edges),
                 .query_groups = args.query_groups.data,
                 .key_groups = args.key_groups.data,
                 .offsets = args.scratch->alloc<int32_t>({problems, args.num_groups + 1}).data,
                 .members = args.scratch->alloc<uint32_t>({problems, edges.num_keys * slots}).data,
                 .query_mask = args.query_mask.data,
                 .key_mask = args.key_mask.data,
                 .heads = args.query_groups.shape[1],
                 .slots = slots,
                 .num_groups = args.num_groups,
                 .always = args.always,
                 .is_causal = args.is_causal};
  if (problems == 0) return fill_zero(stream, edges.overflow);
  launch(stream, {.grid = blocks_for(problems, kGroupThreads), .block = kGroupThreads},
         begin_group_graph_kernel, in.graph, problems);
  if (edges.num_queries == 0 || edges.num_keys == 0) {
    fill_zero(stream, edges.row_ptr);
    fill_zero(stream, edges.column_ptr);
    return;
  }
  launch(stream, warp_each(problems * args.num_groups), find_members_kernel<false>, in, problems);
  launch(stream, warp_each(problems), sum_sizes_kernel, in, problems);
  launch(stream, warp_each(problems * args.num_groups), find_members_kernel<true>, in, problems);
  for (int64_t first = 0; first < problems; first += cursors.shape[0]) {
    in.wave = {first, std::min(cursors.shape[0], problems - first)};
    launch(stream, warp_each(in.wave.count * edges.num_queries), count_group_edges_kernel, in);
    sum_degrees(stream, in.graph, in.wave, problems);
    launch(stream, warp_each(in.wave.count * edges.num_queries), write_group_edges_kernel, in);
    transpose_csr(stream, in.graph, in.wave, cursors);
  }
}

}  // namespace stipple::kernels::cuda
