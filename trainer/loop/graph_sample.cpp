// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/graph_sample.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "model/attention/graph_figures.h"

namespace stipple::trainer {
namespace {

/// As many examples as are few, and, of long ones, as tell enough: one of 2048 tokens.
constexpr int64_t kMostExamples = 8;
constexpr int64_t kEnoughPairs = int64_t{1} << 22;
/// A picture is written after every evaluation: 1,100 tokens in two layers of two heads.
constexpr int64_t kMostPictureBytes = 32'000'000;

std::vector<int64_t> examples_to_look_at(const data::TaskInfo& info, const data::Dataset& dataset) {
  std::vector<int64_t> examples;
  int64_t pairs = 0;
  while (pairs < kEnoughPairs) {
    const auto next = static_cast<int64_t>(examples.size());
    if (next == std::min(kMostExamples, dataset.size())) break;
    for (int64_t s = 0; s < info.fields.sequences; ++s) {
      const int64_t tokens = dataset.length({.example = next}, s);
      pairs += tokens * tokens;
    }
    examples.push_back(next);
  }
  return examples;
}

/// The one that shows most; none where each takes too much.
std::optional<int64_t> example_to_show(const std::vector<int64_t>& examples, const Config& config,
                                       const data::TaskInfo& info, const data::Dataset& dataset) {
  std::optional<int64_t> best;
  int64_t best_bytes = 0;
  for (const int64_t example : examples) {
    const int64_t bytes = graph_bytes(config, info, dataset, example);
    if (bytes > kMostPictureBytes || bytes <= best_bytes) continue;
    best = example;
    best_bytes = bytes;
  }
  return best;
}

/// Means of what is finite.
class Means {
 public:
  void add(const model::AttentionGraph& graph, uint64_t seed) {
    const auto figures = model::graph_figures();
    const auto layer = static_cast<size_t>(graph.layer);
    if (layer >= layers_.size()) layers_.resize(layer + 1);
    layers_[layer].resize(figures.size());
    for (size_t f = 0; f < figures.size(); ++f) {
      layers_[layer][f].resize(static_cast<size_t>(graph.heads()));
      for (int64_t head = 0; head < graph.heads(); ++head) {
        const double value = figures[f].of(graph, head, seed);
        if (!std::isfinite(value)) continue;
        Mean& mean = layers_[layer][f][static_cast<size_t>(head)];
        mean.sum += value;
        mean.count += 1;
      }
    }
  }
  std::vector<LayerRecord> records() const {
    std::vector<LayerRecord> records;
    for (const auto& layer : layers_) {
      LayerRecord& record = records.emplace_back();
      for (size_t f = 0; f < layer.size(); ++f) {
        std::vector<double>& heads =
            record.emplace_back(std::string(model::graph_figures()[f].name), 0).second;
        for (const Mean& mean : layer[f]) heads.push_back(mean.sum / mean.count);  // NaN: of none
      }
    }
    return records;
  }

 private:
  struct Mean {
    double sum = 0, count = 0;
  };
  std::vector<std::vector<std::vector<Mean>>> layers_;  // [layer][figure][head]
};

}  // namespace

GraphSample sample_graphs(Replica& replica, const data::Dataset& dataset,
                          const data::TaskInfo& info, const Config& config) {
  GraphSample sample;
  Means means;
  const std::vector<int64_t> examples = examples_to_look_at(info, dataset);
  const std::optional<int64_t> shown = example_to_show(examples, config, info, dataset);
  const auto look_at = [&](const DrawnExample& drawn) {
    if (drawn.example == shown) sample.picture.emplace().add(drawn);
    for (const DrawnSequence& sequence : drawn.sequences) {
      for (const auto& graph : sequence.layers)
        if (graph->groups > 0) means.add(*graph, static_cast<uint64_t>(drawn.example));
    }
  };
  // One at a time: the graphs of a whole leaf may be large.
  for (const int64_t& example : examples)
    draw_graphs(replica, dataset, info, config, std::span(&example, 1), look_at);
  sample.layers = means.records();
  return sample;
}

}  // namespace stipple::trainer
