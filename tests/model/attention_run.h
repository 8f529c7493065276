// SPDX-License-Identifier: Apache-2.0
// One attention with its parameters, inputs, memory and gradients, sized by a planning run on meta.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>

#include "model/attention/attention.h"
#include "model/planning_run.h"
#include "tests/model/recording_observer.h"
#include "tests/support/arrays.h"

namespace stipple::test {

struct AttentionCase {
  int64_t batch = 2;
  int64_t heads = 2;
  int64_t length = 7;
  int64_t head_dim = 4;
  uint64_t seed = 1;
  int threads = 1;
  float batch_share = 1.0f;
  bool is_causal = false;
};

class AttentionRun {
 public:
  static constexpr int64_t kLayers = 3;
  static constexpr int kLayer = 1;

  AttentionRun(const model::AttentionConfig& config, const AttentionCase& c)
      : q(random_normal({c.batch, c.heads, c.length, c.head_dim}, c.seed)),
        k(random_normal(q.shape(), c.seed + 1)),
        v(random_normal(q.shape(), c.seed + 2)),
        dout(random_normal(q.shape(), c.seed + 3)),
        content_q(q),
        content_k(k),
        x(random_normal({c.batch, c.length, c.heads * c.head_dim}, c.seed + 4)),
        mask({c.batch, c.length}),
        samples({c.batch}),
        out(q.shape()),
        dq(q.shape()),
        dk(q.shape()),
        dv(q.shape()),
        dcontent_q(q.shape()),
        dcontent_k(q.shape()),
        dx(x.shape()),
        stream_(kCpuDevice, {.threads = c.threads}),
        case_(c),
        attention(model::make_attention(config, store, facts, shape(c))),
        saved(attention->make_saved()) {
    mask.fill(1);
    for (int64_t b = 0; b < c.batch; ++b) samples[b] = static_cast<uint32_t>(11 + 3 * b);
    store.allocate(kCpuDevice);
    store.initialize(Stream(kCpuDevice), c.seed);
    grads = Buffer(kCpuDevice, static_cast<size_t>(store.numel()) * sizeof(float));
    store.bind_grads({reinterpret_cast<float*>(grads.data()), {store.numel()}});
    plan();
  }

  model::AttentionInputs inputs() const {
    return {.q = q,
            .k = k,
            .v = v,
            .content_q = rotary ? content_q : q,
            .content_k = rotary ? content_k : k,
            .x = x,
            .mask = mask,
            .samples = samples,
            .batch_share = case_.batch_share};
  }
  void forward(bool training = true) {
    saved_arena_->rewind(0);
    model::Context ctx = context(training);
    ctx.facts = observer.facts(facts);
    attention->forward(ctx, inputs(), out, *saved);
    observer.read(facts, ctx.facts);
  }
  void backward() {
    std::fill_n(reinterpret_cast<float*>(grads.data()), store.numel(), 0.0f);
    model::Context ctx = context(true);
    dcontent_q.fill(0);
    dcontent_k.fill(0);
    dx.fill(0);
    attention->backward(ctx, inputs(), out, dout, *saved,
                        {.dq = dq,
                         .dk = dk,
                         .dv = dv,
                         .dcontent_q = rotary ? dcontent_q : dq,
                         .dcontent_k = rotary ? dcontent_k : dk,
                         .dx = dx});
  }
  /// Of the last forward.
  void tell_graphs(model::GraphSink& sink) {
    model::Context ctx = context(false);
    ctx.graphs = &sink;
    attention->tell_graphs(ctx, inputs(), *saved);
  }
  View<float> value(const std::string& name) const { return store.value(*store.find(name)); }
  View<float> grad(const std::string& name) const { return store.grad(*store.find(name)); }

  Array<float> q, k, v, dout;
  Array<float> content_q, content_k;  ///< what the attention gets where `rotary`
  bool rotary = false;                ///< content views, and their gradients, are arrays apart
  Array<float> x;
  Array<uint8_t> mask;
  Array<uint32_t> samples;
  Array<float> out, dq, dk, dv, dcontent_q, dcontent_k, dx;
  RecordingObserver observer;
  model::ParameterStore store;
  model::FactTable facts{kLayers};
  Buffer grads;
  RngKey rng{.seed = 5, .step = 9};

 private:
  static model::AttentionShape shape(const AttentionCase& c) {
    return {.num_layers = kLayers,
            .num_heads = c.heads,
            .head_dim = c.head_dim,
            .max_length = c.length,
            .is_causal = c.is_causal,
            .name = "attention"};
  }
  model::Context context(bool training) {
    return {.stream = stream_,
            .saved = *saved_arena_,
            .scratch = *scratch_arena_,
            .rng = rng,
            .training = training,
            .observer = observer,
            .facts = {},
            .layer = kLayer};
  }
  void plan() {
    model::PlanningRun run(DeviceType::kCpu, {.threads = case_.threads}, facts);
    model::Context ctx = run.begin(true);
    ctx.layer = kLayer;
    const View<float> nowhere{nullptr, q.shape()};
    const View<float> x_nowhere{nullptr, x.shape()};
    const model::AttentionInputs in{.q = nowhere,
                                    .k = nowhere,
                                    .v = nowhere,
                                    .content_q = nowhere,
                                    .content_k = nowhere,
                                    .x = x_nowhere,
                                    .mask = {nullptr, mask.shape()},
                                    .samples = {nullptr, samples.shape()}};
    attention->forward(ctx, in, nowhere, *saved);
    attention->backward(ctx, in, nowhere, nowhere, *saved,
                        {nowhere, nowhere, nowhere, nowhere, nowhere, x_nowhere});
    model::Context evaluation = run.begin(false);
    evaluation.layer = kLayer;
    attention->forward(evaluation, in, nowhere, *saved);
    saved_arena_ = std::make_unique<Arena>("saved", kCpuDevice, run.saved_bytes());
    scratch_arena_ = std::make_unique<Arena>("scratch", kCpuDevice, run.scratch_bytes());
  }

  Stream stream_;
  AttentionCase case_;
  std::unique_ptr<Arena> saved_arena_, scratch_arena_;

 public:
  std::unique_ptr<model::Attention> attention;
  std::unique_ptr<model::Attention::Saved> saved;
};

/// In its middle and at its end.
inline void pad_second_example(AttentionRun& run) {
  const int64_t length = run.mask.shape()[1];
  for (int64_t j : {int64_t{2}, length - 2, length - 1}) run.mask[length + j] = 0;
}

}  // namespace stipple::test
