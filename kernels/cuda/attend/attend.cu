// SPDX-License-Identifier: Apache-2.0
// Attention's public operations on CUDA: describes the call to both ways of computing it, which
// share the problems of a graph among them (parts.h).
//
// delta: a row lies over a power of two of lanes, 16 bytes each, or one element where rows do not
// start on 16 bytes; a block of 256 threads takes as many rows as fit. Bound by memory: two rows of
// D elements read, 4 bytes written.
#include "kernels/attend.h"
#include "kernels/cuda/attend/parts.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/sums.h"

namespace stipple::kernels::cuda {
namespace {

template <class T, int kWidth>
__global__ void delta_kernel(float* delta, const T* dout, const T* o, int64_t rows, RowLanes map) {
  const int64_t row = int64_t{blockIdx.x} * (kBlockThreads >> map.lane_bits) + map.row();
  const int64_t first = row * map.units;
  float sum = 0.0f;
  if (row < rows) {
    for (int64_t unit = map.lane(); unit < map.units; unit += map.lanes()) {
      const Pack<kWidth> a = load<kWidth>(dout + (first + unit) * kWidth);
      const Pack<kWidth> b = load<kWidth>(o + (first + unit) * kWidth);
#pragma unroll
      for (int c = 0; c < kWidth; ++c) sum += a.at[c] * b.at[c];
    }
  }
  sum = lanes_sum(sum, map.lanes());
  if (row < rows && map.lane() == 0) delta[row] = sum;
}

template <class T, int kWidth>
void launch_delta(const Stream& stream, float* delta, View<const T> dout, View<const T> o) {
  const RowLanes map = row_lanes(dout.shape[3] / kWidth, kWarpSize);
  const int64_t rows = dout.shape[0] * dout.shape[1] * dout.shape[2];
  launch(stream, {.grid = blocks_for(rows, kBlockThreads >> map.lane_bits), .block = kBlockThreads},
         delta_kernel<T, kWidth>, delta, dout.data, o.data, rows, map);
}

/// delta [B, H, N], or from scratch what attend_delta makes.
const float* find_delta(const Stream& stream, Arena& scratch, View<const float> delta,
                        ConstRealView dout, ConstRealView o) {
  if (!delta.empty()) return delta.data;
  const Shape& shape = dout.shape;
  const View<float> made = scratch.alloc<float>({shape[0], shape[1], shape[2]});
  attend_delta(stream, {.delta = made, .dout = dout, .o = o});
  return made.data;
}

GraphArrays graph_arrays(const EdgeSet& e) {
  const bool has_counts = e.capacity.multiplicity;
  return {.form = e.form.data,
          .row_ptr = e.row_ptr.data,
          .column_ptr = e.column_ptr.data,
          .by_query = e.storage.data,
          .by_key = e.transposed.data,
          .query_multiplicity = has_counts ? e.multiplicity.data : nullptr,
          .key_multiplicity = has_counts ? e.transposed_multiplicity.data : nullptr,
          .query_stride = e.storage.shape[1],
          .key_stride = e.transposed.shape[1],
          .may_have_bits = has_room_for_bits(e)};
}

/// What all four operations have in common.
template <class Args>
AttendArrays arrays(const Args& a) {
  return {.batch = a.q.shape[0],
          .heads = a.q.shape[1],
          .num_queries = a.q.shape[2],
          .num_keys = a.k.shape[2],
          .dim = a.q.shape[3],
          .storage = a.q.precision,
          .q = a.q.data,
          .k = a.k.data,
          .v = a.v.data,
          .key_mask = a.key_mask.data,
          .scale = a.scale,
          .dropout = weight_dropout(a.dropout)};
}

template <class Args>
AttendArrays forward_arrays(const Args& a) {
  AttendArrays x = arrays(a);
  x.o = a.o.data;
  x.lse = a.lse.data;
  return x;
}

/// Where delta is not given, it comes from scratch.
template <class Args>
AttendArrays backward_arrays(const Stream& stream, const Args& a) {
  AttendArrays x = arrays(a);
  x.lse = const_cast<float*>(a.lse.data);  // only forward writes it
  x.dout = a.dout.data;
  x.delta = find_delta(stream, *a.scratch, a.delta, a.dout, a.o);
  x.dq = a.dq.data;
  x.dk = a.dk.data;
  x.dv = a.dv.data;
  return x;
}

StraightThroughArrays straight_through_arrays(const StraightThrough& s) {
  if (s.row_grad.empty()) return {};
  return {.clusters = s.row_grad.shape[3],
          .row_grad = s.row_grad.data,
          .column_grad = s.column_grad.data,
          .y = s.y.data,
          .z = s.z.data,
          .rule = s.rule,
          .regularizer = s.regularizer,
          .clip = s.clip,
          .window_radius = static_cast<int>(s.window_radius)};
}

}  // namespace

WeightDropout weight_dropout(const AttentionDropout& d) {
  if (d.rate == 0.0f) return {};
  return {.is_on = true,
          .drop_below = static_cast<uint32_t>(static_cast<double>(d.rate) * 0x1p32),
          .rescale = 1.0f / (1.0f - d.rate),
          .rng = d.rng,
          .layer = d.layer,
          .first_head = d.first_head,
          .samples = d.samples.data,
          .is_kept = !d.kept.empty(),
          .kept = d.kept.data,
          .kept_stride = d.kept.empty() ? 0 : d.kept.shape[1]};
}

void attend_delta(const Stream& stream, const AttendDelta& args) {
  const ConstRealView dout = args.dout;
  const ConstRealView o = args.o;
  with_real_type(dout.precision, [&](auto zero) {
    using T = decltype(zero);
    constexpr int kWidth = kPackWidthOf<T>;
    if (dout.shape[3] % kWidth == 0 && are_aligned(dout.as<T>().data, o.as<T>().data)) {
      launch_delta<T, kWidth>(stream, args.delta.data, dout.as<T>(), o.as<T>());
    } else {
      launch_delta<T, 1>(stream, args.delta.data, dout.as<T>(), o.as<T>());
    }
  });
}

void attend_dense(const Stream& stream, const AttendDense& args) {
  AttendArrays x = forward_arrays(args);
  x.pattern = math::pattern_rule(args.pattern);
  attend_tiles(stream, x, *args.scratch);
}

void attend_dense_backward(const Stream& stream, const AttendDenseBackward& args) {
  const Arena::Scope scope(*args.scratch);
  AttendArrays x = backward_arrays(stream, args);
  x.pattern = math::pattern_rule(args.pattern);
  attend_tiles_backward(stream, x, *args.scratch);
}

void attend_edges(const Stream& stream, const AttendEdges& args) {
  AttendArrays x = forward_arrays(args);
  x.graph = graph_arrays(args.edges);
  if (args.implementation == EdgesImplementation::kCusparse) {
    return attend_cusparse(stream, x, *args.scratch);
  }
  if (x.graph.may_have_bits) attend_tiles(stream, x, *args.scratch);
  attend_gather(stream, x);
}

void attend_edges_backward(const Stream& stream, const AttendEdgesBackward& args) {
  const Arena::Scope scope(*args.scratch);
  AttendArrays x = backward_arrays(stream, args);
  x.graph = graph_arrays(args.edges);
  x.ste = straight_through_arrays(args.ste);
  if (args.implementation == EdgesImplementation::kCusparse) {
    return attend_cusparse_backward(stream, x, *args.scratch);
  }
  if (x.graph.may_have_bits) attend_tiles_backward(stream, x, *args.scratch);
  attend_gather_backward(stream, x);
}

}  // namespace stipple::kernels::cuda
