// SPDX-License-Identifier: Apache-2.0
// A model with its parameters, one leaf of input, gradients, and memory sized by a planning run on
// meta.
#pragma once

#include <cstring>
#include <memory>

#include "model/model.h"
#include "model/planning_run.h"
#include "tests/model/recording_observer.h"
#include "tests/support/arrays.h"

namespace stipple::test {

struct ModelCase {
  model::ModelConfig config;
  model::AttentionConfig attention;
  model::ModelTask task;
  int64_t batch = 3;
  int64_t length = 12;
  int threads = 1;
};

/// A model small enough for thousands of evaluations.
inline ModelCase small_case(model::AttentionKind kind) {
  ModelCase c;
  c.config = {.layers = 2, .width = 8, .heads = 2, .feedforward = 12, .head_hidden = 10};
  c.attention.kind = kind;
  c.attention.sbm.clusters = 5;
  c.attention.combiner.block = 4;
  c.attention.sparsefinder.cluster.clusters = 3;
  c.attention.sparsefinder.measure = false;
  c.task = {.vocab_size = 9, .num_classes = 4, .max_length = 16};
  return c;
}

/// The same as a language model.
inline ModelCase small_language_model(model::AttentionKind kind) {
  ModelCase c = small_case(kind);
  c.task.fields.label = LabelKind::kNextToken;
  c.task.num_classes = c.task.vocab_size;
  return c;
}

inline bool is_value(const model::ModelTask& task) {
  return task.fields.label == LabelKind::kValue;
}

inline bool is_per_token(const model::ModelTask& task) {
  return stipple::is_per_token(task.fields.label);
}

/// One leaf. Row r has r tokens of padding at its end, and one in the middle of the last row.
struct LeafArrays : stipple::LeafArrays<Array> {
  LeafSizes sizes;
  float batch_share = 1.0f;
  std::optional<int64_t> num_labels = {};

  LeafArrays(const model::ModelTask& task, int64_t batch, int64_t length, uint32_t seed = 1)
      : sizes{task.fields, batch, length} {
    for_each_array(
        sizes,
        [](const auto& array, auto& memory) {
          memory = std::decay_t<decltype(memory)>(array.shape);
        },
        *this);
    std::mt19937 generator(seed);
    const auto below = [&](int64_t n) {
      return static_cast<int32_t>(generator() % static_cast<uint32_t>(n));
    };
    for (int64_t r = 0; r < sizes.rows(); ++r) {
      samples[r] = static_cast<uint32_t>(5 + 7 * r);
      for (int64_t n = 0; n < length; ++n) {
        const int64_t i = r * length + n;
        mask[i] = n < length - r && !(r == sizes.rows() - 1 && n == length / 2);
        ids[i] = mask[i] ? 1 + below(task.vocab_size - 1) : 0;
        if (task.fields.segments > 0) segments[i] = below(task.fields.segments);
      }
    }
    int64_t i = 0;
    for (int32_t& label : labels.values()) {
      const bool real = !is_per_token(task) || mask[i++] != 0;
      label = real ? below(task.num_classes) : -1;
    }
    for (float& value : values.values()) value = static_cast<float>(below(9)) - 4.0f;
    const auto counted = [](int32_t label) { return label >= 0; };
    const auto classes = std::count_if(labels.values().begin(), labels.values().end(), counted);
    loss_scale[0] = 1.0f / static_cast<float>(is_value(task) ? batch : classes);
    if (task.fields.label == LabelKind::kMaskedToken) mask_some();
    for (int32_t& relation : relations.values()) relation = below(2);
    if (task.fields.has_relation) relation_scale[0] = 1.0f / static_cast<float>(batch);
  }

  /// Every third token keeps its label, and a list says which.
  void mask_some() {
    int64_t listed = 0;
    label_rows.fill(0);
    row_labels.fill(-1);
    for (int64_t i = 0; i < labels.numel(); ++i) {
      if (i % 3 != 1) labels[i] = -1;
      if (labels[i] < 0) continue;
      label_rows[listed] = static_cast<int32_t>(i);
      row_labels[listed++] = labels[i];
    }
    num_labels = listed;
    loss_scale[0] = 1.0f / static_cast<float>(listed);
  }

  model::Input input() const {
    model::Input input;
    for_each_array(
        sizes, [](const auto&, const auto& memory, auto& view) { view = memory; }, *this, input);
    input.batch_share = batch_share;
    input.num_labels = num_labels;
    return input;
  }
};

class ModelRun {
 public:
  explicit ModelRun(const ModelCase& c)
      : prediction(is_per_token(c.task) ? Shape{c.task.fields.sequences * c.batch, c.length}
                                        : Shape{c.batch}),
        facts(c.config.layers),
        model(store, facts, c.config, c.attention, c.task),
        saved(model.make_saved()),
        case_(c),
        stream_(kCpuDevice, {.threads = c.threads}) {
    store.allocate(kCpuDevice);
    store.initialize(Stream(kCpuDevice), 3);
    gradients = Buffer(kCpuDevice, static_cast<size_t>(store.numel()) * sizeof(float));
    store.bind_grads(grads());
    plan();
  }

  View<float> grads() const {
    return {reinterpret_cast<float*>(gradients.data()), {store.numel()}};
  }
  std::vector<float> grad_values() const { return {grads().data, grads().data + grads().numel()}; }

  /// Task loss, scaled, plus regularisers: what backward differentiates.
  double forward(const LeafArrays& leaf, bool training = true) {
    observer.clear();
    saved_arena->rewind(0);
    model::Context ctx = context(training);
    ctx.facts = observer.facts(facts);
    model.forward(ctx, leaf.input(), *saved, wanted());
    observer.read(facts, ctx.facts);
    loss_sum = ctx.facts.at<double>(facts.find(model::kLossSum))[0];
    if (!is_value(case_.task)) correct = ctx.facts.at<int64_t>(facts.find("correct"))[0];
    count = ctx.facts.at<int64_t>(facts.find(model::kLabels))[0];
    double loss = loss_sum * static_cast<double>(leaf.loss_scale[0]) + observer.auxiliary;
    if (case_.task.fields.has_relation) {
      relation_loss_sum = ctx.facts.at<double>(facts.find("relation_loss_sum"))[0];
      loss += relation_loss_sum * static_cast<double>(leaf.relation_scale[0]);
    }
    return loss;
  }
  void backward(const LeafArrays& leaf) {
    std::memset(gradients.data(), 0, gradients.bytes());
    accumulate(leaf);
  }
  void accumulate(const LeafArrays& leaf) {
    model::Context ctx = context(true);
    model.backward(ctx, leaf.input(), *saved);
  }

  double loss_sum = 0;  ///< of the last forward, as are the next two
  int64_t correct = 0, count = 0;
  double relation_loss_sum = 0;  ///< of tasks with relations
  Array<int32_t> prediction;
  RecordingObserver observer, planning_observer;
  RngKey rng{.seed = 2, .step = 4};
  model::GraphSink* graphs = nullptr;  ///< gets what the next forward draws
  model::ParameterStore store;
  Buffer gradients;
  model::FactTable facts;
  model::Model model;
  std::unique_ptr<model::Model::Saved, void (*)(model::Model::Saved*)> saved;
  std::unique_ptr<Arena> saved_arena, scratch_arena;
  size_t planned_saved = 0, planned_scratch = 0;

 private:
  View<int32_t> wanted() {
    const bool has_none =
        is_value(case_.task) || case_.task.fields.label == LabelKind::kMaskedToken;
    return has_none ? View<int32_t>{} : View<int32_t>(prediction);
  }

  model::Context context(bool training) {
    return {.stream = stream_,
            .saved = *saved_arena,
            .scratch = *scratch_arena,
            .rng = rng,
            .training = training,
            .observer = observer,
            .facts = {},
            .graphs = graphs};
  }

  void plan() {
    model::PlanningRun run(DeviceType::kCpu, {.threads = case_.threads}, facts);
    model::Context ctx = run.begin(true, planning_observer);
    model::Input in;
    for_each_array(
        LeafSizes{case_.task.fields, case_.batch, case_.length},
        [](const auto& array, auto& view) { view.shape = array.shape; }, in);
    model.forward(ctx, in, *saved, {nullptr, wanted().shape});
    model.backward(ctx, in, *saved);
    planned_saved = run.saved_bytes();
    planned_scratch = run.scratch_bytes();
    saved_arena = std::make_unique<Arena>("saved", kCpuDevice, planned_saved);
    scratch_arena = std::make_unique<Arena>("scratch", kCpuDevice, planned_scratch);
  }

  ModelCase case_;
  Stream stream_;
};

}  // namespace stipple::test
