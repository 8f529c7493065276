// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/draw_graphs.h"

#include <algorithm>

#include "model/attention/registry.h"
#include "trainer/loop/evaluate.h"
#include "trainer/loop/step_observer.h"

namespace stipple::trainer {
namespace {

model::AttentionTraits traits_of(const Config& config) {
  return model::attention_row(config.attention.kind).traits(config.attention);
}

/// What stands at the leaf's example `place`. All places hold examples.
DrawnExample example_of(const data::Leaf& leaf, size_t place) {
  DrawnExample drawn{.example = leaf.draws[place].example};
  const LeafFields& fields = leaf.sizes.fields;
  if (fields.label == LabelKind::kClass) drawn.labels = {leaf.labels[place]};
  if (fields.label == LabelKind::kValue) drawn.values = {leaf.values[place]};
  const auto length = static_cast<size_t>(leaf.sizes.length);
  const auto sequences = static_cast<size_t>(fields.sequences);
  for (size_t row = place * sequences; row < (place + 1) * sequences; ++row) {
    DrawnSequence& sequence = drawn.sequences.emplace_back();
    for (size_t i = row * length; i < (row + 1) * length; ++i) {
      if (leaf.mask[i] == 0) continue;
      sequence.ids.push_back(leaf.ids[i]);
      if (is_per_token(fields.label)) sequence.labels.push_back(leaf.labels[i]);
    }
  }
  return drawn;
}

class LeafGraphs final : public model::GraphSink {
 public:
  explicit LeafGraphs(const data::Leaf& leaf) : sequences_(leaf.sizes.fields.sequences) {
    for (size_t place = 0; place < leaf.draws.size(); ++place)
      examples_.push_back(example_of(leaf, place));
  }
  bool wants(int64_t) const override { return true; }
  void take(std::unique_ptr<model::AttentionGraph> graph) override {
    DrawnExample& example = examples_.at(static_cast<size_t>(graph->row / sequences_));
    example.sequences.at(static_cast<size_t>(graph->row % sequences_))
        .layers.push_back(std::move(graph));
  }
  const std::vector<DrawnExample>& examples() const { return examples_; }

 private:
  int64_t sequences_;  ///< of an example
  std::vector<DrawnExample> examples_;
};

}  // namespace

bool has_graphs(const Config& config) { return traits_of(config).has_graph; }

GraphSizes graph_sizes(const Config& config) {
  return {.layers = config.model.layers,
          .heads = config.model.heads,
          .groups = traits_of(config).graph_groups};
}

int64_t graph_bytes(const Config& config, const data::TaskInfo& info, const data::Dataset& dataset,
                    int64_t example) {
  constexpr int64_t kIdBytes = sizeof(int64_t);
  const LabelKind label = info.fields.label;
  int64_t bytes = 0;
  if (label == LabelKind::kClass) bytes += kIdBytes;
  if (label == LabelKind::kValue) bytes += static_cast<int64_t>(sizeof(float));
  for (int64_t s = 0; s < info.fields.sequences; ++s) {
    const int64_t tokens = dataset.length({.example = example}, s);
    const int64_t numbers = is_per_token(label) ? 2 : 1;  // of a token
    bytes += graph_bytes(graph_sizes(config), tokens) + tokens * numbers * kIdBytes;
  }
  return bytes;
}

void draw_graphs(Replica& replica, const data::Dataset& dataset, const data::TaskInfo& info,
                 const Config& config, std::span<const int64_t> examples,
                 FunctionRef<void(const DrawnExample&)> take) {
  const data::EvalBatches batches(dataset, info, batch_options(config, /*is_captured=*/false));
  const RngKey rng = evaluation_rng(config, /*seed=*/0);
  const auto micro = static_cast<size_t>(config.train.micro_batch);
  data::Leaf leaf;
  StepObserver nobody;
  for (size_t first = 0, round = 0; first < examples.size(); first += micro, ++round) {
    batches.load(examples.subspan(first, std::min(micro, examples.size() - first)), leaf);
    replica.feed().put(static_cast<int64_t>(round), 0, leaf);
    LeafGraphs graphs(leaf);
    replica.forward(0, rng, /*training=*/false, nobody, &graphs);
    replica.stream().synchronize();
    for (const DrawnExample& drawn : graphs.examples()) take(drawn);
  }
}

}  // namespace stipple::trainer
