// SPDX-License-Identifier: Apache-2.0
// Attention on CUDA for tests: a setup's arrays, in either storage, and its graph put on the
// device, and calls of the ways to compute it that are not public (kernels/cuda/attend/parts.h).
#pragma once

#include <functional>
#include <utility>
#include <vector>

#include "core/copy.h"
#include "kernels/cuda/attend/parts.h"
#include "tests/kernels/attend_reference.h"

namespace stipple::test {

/// One of the ways through kernels/cuda/attend/parts.h.
struct AttendWay {
  using Call =
      std::function<void(const Stream&, const kernels::cuda::AttendArrays&, Arena& scratch)>;
  Call forward;
  Call backward;
};

/// Calls of one way with the same inputs. Keeps a reference to the setup.
class AttendOnDevice {
 public:
  struct Options {
    Precision storage = Precision::kFp32;
    int64_t output_shift = 0;  ///< elements of outputs behind an aligned address
    size_t scratch_bytes = size_t{16} << 20;
  };

  /// Without a graph: all pairs.
  AttendOnDevice(const AttendSetup& s, AttendWay way, const HostGraph* graph,
                 const Options& options)
      : s_(s),
        way_(std::move(way)),
        options_(options),
        memory_(s, {.device = cuda_device(0), .storage = options.storage}, options.scratch_bytes) {
    poison_scratch();
    a_ = {.batch = s.batch,
          .heads = s.heads,
          .num_queries = s.n,
          .num_keys = s.m,
          .dim = s.d,
          .storage = options.storage,
          .q = memory_.store(s.q).data,
          .k = memory_.store(s.k).data,
          .v = memory_.store(s.v).data,
          .key_mask = memory_.key_mask().data,
          .scale = s.scale,
          .dropout = put_weight_dropout()};
    if (graph != nullptr) a_.graph = put_edges(*graph);
  }

  Attended forward() {
    o_ = output(s_.q.shape());
    lse_ = memory_.room_for_lse();
    a_.o = o_.data;
    a_.lse = lse_.data;
    way_.forward(memory_.stream(), a_, memory_.scratch());
    return {memory_.get(ConstRealView(o_)), memory_.get(lse_)};
  }

  /// The outputs of the last forward() once more, computed by a captured graph.
  Attended replay_forward() {
    void* native = memory_.stream().native();
    stipple::cuda::begin_capture(native);
    way_.forward(memory_.stream(), a_, memory_.scratch());
    void* graph = stipple::cuda::end_capture(native);
    fill_zero_bytes(memory_.stream(), o_.data, o_.bytes());
    fill_zero(memory_.stream(), lse_);
    stipple::cuda::launch_graph(graph, native);
    memory_.stream().synchronize();
    stipple::cuda::destroy_graph(graph);
    return {memory_.get(ConstRealView(o_)), memory_.get(lse_)};
  }

  Gradients<float> backward(const Attended& forward) {
    const RealView dq = output(s_.q.shape());
    const RealView dk = output(s_.k.shape());
    const RealView dv = output(s_.k.shape());
    const RealView row_grad = output({s_.batch, s_.heads, s_.n, s_.clusters});
    const RealView column_grad = output({s_.batch, s_.heads, s_.m, s_.clusters});
    a_.lse = memory_.put(forward.lse).data;
    a_.dout = memory_.store(s_.dout).data;
    a_.delta = memory_.put(delta(forward)).data;
    a_.dq = dq.data;
    a_.dk = dk.data;
    a_.dv = dv.data;
    a_.ste = {.clusters = s_.clusters,
              .row_grad = row_grad.data,
              .column_grad = column_grad.data,
              .y = memory_.store(s_.y).data,
              .z = memory_.store(s_.z).data,
              .rule = s_.rule,
              .regularizer = s_.regularizer,
              .clip = s_.clip,
              .window_radius = static_cast<int>(s_.window_radius)};
    way_.backward(memory_.stream(), a_, memory_.scratch());
    const auto get = [&](const RealView& x) { return memory_.get(ConstRealView(x)); };
    return {get(dq), get(dk), get(dv), get(row_grad), get(column_grad)};
  }

  DeviceMemory& memory() { return memory_; }
  const kernels::cuda::AttendArrays& arrays() const { return a_; }

 private:
  /// Scratch has undefined contents: NaN.
  void poison_scratch() {
    const std::vector<uint8_t> ones(memory_.scratch().capacity(), 0xFF);
    uint8_t* first = memory_.scratch().alloc<uint8_t>({0}).data;
    upload(memory_.stream(), View<uint8_t>{first, {static_cast<int64_t>(ones.size())}}, ones);
  }

  RealView output(const Shape& shape) { return memory_.room(shape, options_.output_shift); }

  kernels::cuda::WeightDropout put_weight_dropout() {
    if (s_.dropout == 0.0f) return {};
    const kernels::AttentionDropout dropout = memory_.dropout();
    return {.is_on = true,
            .drop_below = static_cast<uint32_t>(double{dropout.rate} * 4294967296.0),
            .rescale = 1.0f / (1.0f - dropout.rate),
            .rng = dropout.rng,
            .layer = dropout.layer,
            .first_head = dropout.first_head,
            .samples = dropout.samples.data};
  }

  kernels::cuda::GraphArrays put_edges(const HostGraph& graph) {
    const EdgeSet edges = put_graph(memory_, graph);
    return {.form = edges.form.data,
            .row_ptr = edges.row_ptr.data,
            .column_ptr = edges.column_ptr.data,
            .by_query = edges.storage.data,
            .by_key = edges.transposed.data,
            .query_multiplicity = edges.multiplicity.data,
            .key_multiplicity = edges.transposed_multiplicity.data,
            .query_stride = edges.storage.shape[1],
            .key_stride = edges.transposed.shape[1],
            .may_have_bits = has_room_for_bits(edges)};
  }

  Array<float> delta(const Attended& forward) const {
    Array<float> result({s_.batch, s_.heads, s_.n});
    for (int64_t i = 0; i < result.numel(); ++i) {
      double sum = 0;
      for (int64_t x = 0; x < s_.d; ++x) {
        sum += double{s_.dout[i * s_.d + x]} * double{forward.o[i * s_.d + x]};
      }
      result[i] = static_cast<float>(sum);
    }
    return result;
  }

  const AttendSetup& s_;
  AttendWay way_;
  Options options_;
  AttendMemory memory_;
  RealView o_;
  View<float> lse_;
  kernels::cuda::AttendArrays a_;
};

}  // namespace stipple::test
