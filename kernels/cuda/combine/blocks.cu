// SPDX-License-Identifier: Apache-2.0
// Combiner by blocks on tensor cores, by attend_dense. A sequence's rows lie block by block, so that
// [B, H, N, D] is also [B H blocks, 1, block, D]: own blocks are problems of `block` queries and keys.
// Summaries are R keys for the N queries of a head, cut by a pattern of groups: a query's is its block,
// a summary's is itself. The logit of 32 pairs costs some 13 instructions instead of the 2,900 of
// combine.cu (launch/kernel_report.sh), at twice the pairs for blocks of 64, half of a row block of 128.
//
// What is told of regions needs the mean score under their weights, which is the query's product with
// the mean key: a third call, with keys for values.
#include "kernels/activation.h"
#include "kernels/cuda/combine/blocks.h"
#include "kernels/cuda/combine/rows.cuh"
#include "kernels/cuda/masks.cuh"

namespace stipple::kernels::cuda {
namespace {

/// All that does not depend on the direction.
struct Blocks {
  int64_t batch, heads, length, dim, block, regions;
  bool is_causal, sees_own;
  Shape rows() const { return {batch, heads, length, dim}; }
  Shape own() const { return {batch * heads * regions, 1, block, dim}; }
  Shape own_rows() const { return {batch * heads * regions, 1, block}; }
};

template <class Args>
Blocks blocks_of(const Args& args) {
  const Partition& p = args.partition;
  return {.batch = args.q.shape[0],
          .heads = args.q.shape[1],
          .length = args.q.shape[2],
          .dim = args.q.shape[3],
          .block = p.block,
          .regions = p.num_regions(),
          .is_causal = p.is_causal,
          .sees_own = p.overlaps_own && !p.is_causal};
}

/// Whether whole blocks are for tiles where nothing is dropped, as in evaluation.
template <class Args>
bool may_be_for_tiles(const Args& args) {
  const Partition& p = args.partition;
  return p.kind == PartitionKind::kFixed && p.globals == 0 && p.shift == 0 && p.num_regions() > 0 &&
         args.mass.factor == 0.0f;
}

template <class Args>
bool are_for_tiles(const Args& args) {
  const Partition& p = args.partition;
  return may_be_for_tiles(args) && p.length % p.block == 0 && args.dropout.rate == 0.0f &&
         args.region_dropout.rate == 0.0f;
}

/// The array of a plan, with `length` tokens a head.
template <class Array>
Array of_length(Array array, int64_t length) {
  if (!array.empty()) array.shape = {array.shape[0], array.shape[1], length, array.shape[3]};
  return array;
}
template <class T>
View<T> of_length(View<T> array, int64_t length) {
  if (array.empty()) return array;
  return {array.data, array.shape.rank() == 2 ? Shape({array.shape[0], length})
                                              : Shape({array.shape[0], array.shape[1], length})};
}

/// The arguments of a plan with the last block filled up.
template <class Args>
Args with_whole_blocks(Args args) {
  const int64_t length = args.partition.num_regions() * args.partition.block;
  args.partition.length = length;
  args.q = of_length(args.q, length);
  args.k = of_length(args.k, length);
  args.v = of_length(args.v, length);
  args.region_q = of_length(args.region_q, length);
  args.o = of_length(args.o, length);
  args.lse = of_length(args.lse, length);
  args.mask = of_length(args.mask, length);
  return args;
}

// --- masks and groups ----------------------------------------------------------------------------

/// mask [B, N] for every head: [B, H, N].
__global__ void repeat_mask_kernel(uint8_t* to, const uint8_t* mask, int64_t heads, int64_t length,
                                   int64_t count) {
  const int64_t i = thread_of_grid();
  if (i < count) to[i] = mask[i / length / heads * length + i % length];
}

__global__ void region_mask_kernel(uint8_t* to, const int32_t* tokens, int64_t count) {
  const int64_t i = thread_of_grid();
  if (i < count) to[i] = tokens[i] > 0 ? 1 : 0;
}

/// group[i] = i / size
__global__ void groups_kernel(int32_t* group, int64_t size, int64_t count) {
  const int64_t i = thread_of_grid();
  if (i < count) group[i] = static_cast<int32_t>(i / size);
}

/// Keys of either part, in scratch.
struct PartKeys {
  View<const uint8_t> own_mask;     // [B H blocks, block]; empty: all
  View<const uint8_t> region_mask;  // [B, R]
  Pattern regions;
};

PartKeys part_keys(const Stream& stream, Arena& scratch, const Blocks& b, View<const uint8_t> mask,
                   View<const int32_t> region_tokens) {
  PartKeys keys;
  if (!mask.empty()) {
    const View<uint8_t> own = scratch.alloc<uint8_t>({b.batch * b.heads * b.regions, b.block});
    launch(stream, thread_each(own.numel()), repeat_mask_kernel, own.data, mask.data, b.heads,
           b.length, own.numel());
    keys.own_mask = own;
  }
  const View<uint8_t> of_regions = scratch.alloc<uint8_t>(region_tokens.shape);
  launch(stream, thread_each(of_regions.numel()), region_mask_kernel, of_regions.data,
         region_tokens.data, of_regions.numel());
  keys.region_mask = of_regions;
  if (b.sees_own) return keys;
  const View<int32_t> of_queries = scratch.alloc<int32_t>({b.length});
  const View<int32_t> of_keys = scratch.alloc<int32_t>({b.regions});
  launch(stream, thread_each(b.length), groups_kernel, of_queries.data, b.block, b.length);
  launch(stream, thread_each(b.regions), groups_kernel, of_keys.data, int64_t{1}, b.regions);
  keys.regions = {.kind = b.is_causal ? PatternKind::kEarlierGroups : PatternKind::kOtherGroups,
                  .query_group = of_queries,
                  .key_group = of_keys};
  return keys;
}

// --- what is told --------------------------------------------------------------------------------

/// lse of all keys, of regions; mean key under the weights of regions.
template <class T>
struct FactArrays {
  const float *lse, *region_lse;
  const T *q, *mean_key;
  const uint8_t* mask;
  int64_t heads, length, rows;
  int dim;
  float scale;
};

/// A warp a query.
template <class T, int kPerLane>
__global__ void __launch_bounds__(kRowWarps* kWarpSize)
    block_facts_kernel(FactArrays<T> a, QueryFacts facts) {
  const int64_t row = row_of_warp();
  if (row >= a.rows) return;
  const int64_t sample = row / a.length / a.heads, i = row % a.length;
  const auto q = load_row<kPerLane>(a.q + row * a.dim, a.dim);
  const float mean_score = a.scale * dot(q, load_row<kPerLane>(a.mean_key + row * a.dim, a.dim));
  if (lane_index() != 0) return;
  const bool is_told = a.mask == nullptr || is_real(a.mask + sample * a.length, i);
  const float of_regions = a.region_lse[row];
  const bool sees_regions = of_regions > -kInfinity;
  const float share = sees_regions ? exp2_fast((of_regions - a.lse[row]) * kLog2E) : 0.0f;
  facts.direct_weight[row] = is_told ? 1.0f - share : -1.0f;
  facts.region_entropy[row] =
      is_told && sees_regions ? fmaxf(of_regions - mean_score, 0.0f) : -1.0f;
}

void tell(const Stream& stream, const Combine& args, const Blocks& b, View<const float> region_lse,
          ConstRealView mean_key, const QueryFacts& facts) {
  const ConstRealView& q = args.region_q.empty() ? args.q : args.region_q;
  with_real_type(q.precision, [&](auto zero) {
    using T = decltype(zero);
    const FactArrays<T> a = {.lse = args.lse.data,
                             .region_lse = region_lse.data,
                             .q = q.as<T>().data,
                             .mean_key = mean_key.as<T>().data,
                             .mask = args.mask.data,
                             .heads = b.heads,
                             .length = b.length,
                             .rows = b.batch * b.heads * b.length,
                             .dim = static_cast<int>(b.dim),
                             .scale = args.scale};
    with_channels_per_lane(b.dim, [&]<int kPerLane>() {
      launch(stream, a_warp_each(a.rows), block_facts_kernel<T, kPerLane>, a, facts);
    });
  });
}

}  // namespace

bool are_blocks_for_tiles(const Combine& args) { return are_for_tiles(args); }
bool are_blocks_for_tiles(const CombineBackward& args) { return are_for_tiles(args); }

void plan_blocks(const Stream& stream, const Combine& args, const QueryFacts& facts, bool tells) {
  if (!may_be_for_tiles(args)) return;
  combine_blocks(stream, with_whole_blocks(args), facts, tells);
}
void plan_blocks(const Stream& stream, const CombineBackward& args) {
  if (!may_be_for_tiles(args)) return;
  CombineBackward whole = with_whole_blocks(args);
  const int64_t length = whole.partition.length;
  whole.dq = of_length(whole.dq, length);
  whole.dk = of_length(whole.dk, length);
  whole.dv = of_length(whole.dv, length);
  whole.dregion_q = of_length(whole.dregion_q, length);
  whole.dout = of_length(whole.dout, length);
  combine_blocks_backward(stream, whole);
}

void combine_blocks(const Stream& stream, const Combine& args, const QueryFacts& facts,
                    bool tells) {
  const Blocks b = blocks_of(args);
  Arena& scratch = *args.scratch;
  const Arena::Scope scope(scratch);
  const PartKeys keys = part_keys(stream, scratch, b, args.mask, args.region_tokens);
  const ConstRealView region_q = args.region_q.empty() ? args.q : args.region_q;
  const RealView own = scratch.alloc(args.o.precision, b.rows());
  const RealView of_regions = scratch.alloc(args.o.precision, b.rows());
  const View<float> own_lse = scratch.alloc<float>(args.lse.shape);
  const View<float> region_lse = scratch.alloc<float>(args.lse.shape);
  kernels::attend_dense(stream, {.o = own.reshape(b.own()),
                                 .lse = own_lse.reshape(b.own_rows()),
                                 .q = args.q.reshape(b.own()),
                                 .k = args.k.reshape(b.own()),
                                 .v = args.v.reshape(b.own()),
                                 .key_mask = keys.own_mask,
                                 .pattern = {.is_causal = b.is_causal},
                                 .scale = args.scale,
                                 .scratch = &scratch});
  AttendDense regions = {.o = of_regions,
                         .lse = region_lse,
                         .q = region_q,
                         .k = args.region_key,
                         .v = args.region_value,
                         .key_mask = keys.region_mask,
                         .pattern = keys.regions,
                         .scale = args.scale,
                         .scratch = &scratch};
  kernels::attend_dense(stream, regions);
  const AttendPart parts[] = {{own, own_lse}, {of_regions, region_lse}};
  kernels::merge_parts(stream, {.o = args.o, .lse = args.lse, .parts = parts});
  if (!tells) return;
  regions.v = args.region_key;
  kernels::attend_dense(stream, regions);
  tell(stream, args, b, region_lse, of_regions, facts);
}

void combine_blocks_backward(const Stream& stream, const CombineBackward& args) {
  const Blocks b = blocks_of(args);
  Arena& scratch = *args.scratch;
  const Arena::Scope scope(scratch);
  const PartKeys keys = part_keys(stream, scratch, b, args.mask, args.region_tokens);
  const View<float> delta = scratch.alloc<float>(args.lse.shape);
  kernels::attend_delta(stream, {.delta = delta, .dout = args.dout, .o = args.o});
  kernels::attend_dense_backward(stream, {.dq = args.dq.reshape(b.own()),
                                          .dk = args.dk.reshape(b.own()),
                                          .dv = args.dv.reshape(b.own()),
                                          .q = args.q.reshape(b.own()),
                                          .k = args.k.reshape(b.own()),
                                          .v = args.v.reshape(b.own()),
                                          .dout = args.dout.reshape(b.own()),
                                          .lse = args.lse.reshape(b.own_rows()),
                                          .delta = delta.reshape(b.own_rows()),
                                          .key_mask = keys.own_mask,
                                          .pattern = {.is_causal = b.is_causal},
                                          .scale = args.scale,
                                          .scratch = &scratch});
  const RealView dregion_q = scratch.alloc(args.dq.precision, b.rows());
  kernels::attend_dense_backward(stream, {.dq = dregion_q,
                                          .dk = args.dregion_key,
                                          .dv = args.dregion_value,
                                          .q = args.region_q.empty() ? args.q : args.region_q,
                                          .k = args.region_key,
                                          .v = args.region_value,
                                          .dout = args.dout,
                                          .lse = args.lse,
                                          .delta = delta,
                                          .key_mask = keys.region_mask,
                                          .pattern = keys.regions,
                                          .scale = args.scale,
                                          .scratch = &scratch});
  const RealView& to = args.dregion_q.empty() ? args.dq : args.dregion_q;
  kernels::add(stream, {.y = to, .a = to, .b = dregion_q});
}

}  // namespace stipple::kernels::cuda
