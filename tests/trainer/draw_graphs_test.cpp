// SPDX-License-Identifier: Apache-2.0
// Graphs drawn to be looked at: on every device, by any number of rows at a time, in a file that
// says what it should.
#include "trainer/loop/draw_graphs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <numeric>

#include "core/cuda/runtime.h"
#include "data/task_config.h"
#include "tests/support/attentions.h"
#include "tests/support/graph_statistics.h"
#include "trainer/loop/evaluate.h"
#include "trainer/loop/graph_sample.h"

namespace stipple::trainer {
namespace {

Config small_config(model::AttentionKind kind, Device device) {
  Config config;
  config.threads = 1;
  config.device = device.type == DeviceType::kCuda ? DeviceChoice::kCuda : DeviceChoice::kCpu;
  config.train = {.steps = 1, .batch = 4, .micro_batch = 2};
  config.data.task = data::TaskKind::kRepeatedToken;
  config.data.repeated_token = {.sequence = 21, .train_examples = 0, .eval_examples = 5};
  config.model = {.layers = 2, .width = 8, .heads = 2, .feedforward = 8, .head_hidden = 8};
  config.attention.kind = kind;
  config.attention.sbm.clusters = 6;
  return config;
}

std::vector<Device> devices() {
  std::vector<Device> all = {kCpuDevice};
  if (cuda::device_count() > 0) all.push_back(cuda_device(0));
  return all;
}

/// Every attention that has a graph, on every device.
std::vector<std::pair<Config, Device>> every_config() {
  std::vector<std::pair<Config, Device>> all;
  for (const Device device : devices()) {
    for (const auto kind : test::every_attention()) {
      const Config config = small_config(kind, device);
      if (has_graphs(config)) all.emplace_back(config, device);
    }
  }
  return all;
}

/// A model with its data.
struct DrawingRun {
  DrawingRun(const Config& c, Device device)
      : config(c),
        task(data::make_task(c.data, 1)),
        dataset(task->open(data::Split::kValidation)),
        replica(c, task->info(), device, 1, 1,
                plan_memory(c, task->info(), 1, 0, 1, PlanFor::kEvaluation)) {}
  std::vector<int64_t> first(int64_t count) const {
    std::vector<int64_t> examples(static_cast<size_t>(count));
    std::iota(examples.begin(), examples.end(), 0);
    return examples;
  }
  template <class Take>
  void draw(std::span<const int64_t> examples, const Take& take) {
    draw_graphs(replica, *dataset, task->info(), config, examples, take);
  }
  Config config;
  std::unique_ptr<data::Task> task;
  std::unique_ptr<data::Dataset> dataset;
  Replica replica;
};

TEST(DrawGraphs, GivesEveryExampleWithAllItsLayers) {
  for (const auto& [config, device] : every_config()) {
    DrawingRun run(config, device);
    std::vector<int64_t> seen;
    run.draw(run.first(5), [&](const DrawnExample& drawn) {
      seen.push_back(drawn.example);
      ASSERT_EQ(drawn.sequences.size(), 1u);
      const DrawnSequence& sequence = drawn.sequences.front();
      const auto length = static_cast<size_t>(run.dataset->length({.example = drawn.example}, 0));
      std::vector<int32_t> ids(length), labels(length);
      run.dataset->get({.example = drawn.example}, 0, {.ids = ids, .labels = labels});
      EXPECT_EQ(sequence.ids, ids);
      EXPECT_EQ(sequence.labels, labels);
      EXPECT_TRUE(drawn.labels.empty());  // of tokens, not of the example
      ASSERT_EQ(sequence.layers.size(), 2u);
      for (int layer = 0; layer < 2; ++layer) {
        const model::AttentionGraph& graph = *sequence.layers[static_cast<size_t>(layer)];
        EXPECT_EQ(graph.layer, layer);
        EXPECT_EQ(graph.tokens, static_cast<int64_t>(length));
      }
    });
    EXPECT_EQ(seen, run.first(5));
  }
}

TEST(DrawGraphs, OnEveryDeviceTheMeanOverSeedsIsTheProbability) {
  for (auto [config, device] : every_config()) {
    const int draws = device.type == DeviceType::kCuda ? 60 : 400;
    DrawingRun run(config, device);
    std::vector<double> sums, means;
    for (int draw = 0; draw < draws; ++draw) {
      run.config.run.seed = draw;  // parameters stay
      run.draw(run.first(1), [&](const DrawnExample& drawn) {
        const std::vector<double> mask = test::drawn(*drawn.sequences.front().layers.front());
        sums.resize(mask.size());
        for (size_t i = 0; i < mask.size(); ++i) sums[i] += mask[i];
        if (draw == 0) means = test::probabilities(*drawn.sequences.front().layers.front());
      });
    }
    test::expect_means(sums, means, /*is_poisson=*/false, draws);
  }
}

/// The bytes of a tensor as numbers.
template <class T>
std::vector<double> numbers(const SafetensorsFile& file, const std::string& name) {
  const SafetensorsFile::Entry* entry = file.find(name);
  EXPECT_NE(entry, nullptr) << name;
  if (entry == nullptr) return {};
  std::vector<T> values(static_cast<size_t>(entry->shape.numel()));
  file.read(*entry, std::as_writable_bytes(std::span(values)));
  return {values.begin(), values.end()};
}

TEST(GraphFile, HoldsWhatWasDrawnAndTakesTheBytesThatWereTold) {
  const std::string path =
      (std::filesystem::temp_directory_path() / "stipple-graphs.safetensors").string();
  for (const auto& [config, device] : every_config()) {
    DrawingRun run(config, device);
    GraphFile graphs;
    int64_t told = shared_graph_bytes(graph_sizes(config));
    std::vector<DrawnExample> kept;
    run.draw(run.first(3), [&](const DrawnExample& drawn) {
      graphs.add(drawn);
      told += graph_bytes(config, run.task->info(), *run.dataset, drawn.example);
    });
    EXPECT_EQ(graphs.bytes(), told);
    graphs.replace(path, {{"split", "val"}});
    const SafetensorsFile file(path);
    EXPECT_EQ(file.metadata().at("examples"), "0 1 2");
    EXPECT_EQ(file.metadata().at("split"), "val");
    run.draw(run.first(3), [&](const DrawnExample& drawn) {
      const std::string example = "example." + std::to_string(drawn.example);
      const DrawnSequence& sequence = drawn.sequences.front();
      const std::vector<double> ids(sequence.ids.begin(), sequence.ids.end());
      EXPECT_EQ(numbers<int64_t>(file, example + "/ids"), ids);
      for (const auto& graph : sequence.layers) {
        const std::string layer = "layer." + std::to_string(graph->layer);
        EXPECT_EQ(numbers<uint8_t>(file, example + "/" + layer + "/mask"), test::drawn(*graph));
        const std::vector<double> stored =
            numbers<float>(file, example + "/" + layer + "/probability");
        const std::vector<double> expected = test::probabilities(*graph);
        ASSERT_EQ(stored.size(), expected.size());
        for (size_t i = 0; i < stored.size(); ++i) EXPECT_NEAR(stored[i], expected[i], 1e-6);
        if (graph->groups == 0) continue;
        EXPECT_EQ(numbers<float>(file, layer + "/blocks").size(), graph->blocks.size());
      }
    });
    std::filesystem::remove(path);
  }
}

TEST(SampleGraphs, GivesTheDeclaredFiguresOfEveryHeadAndAPicture) {
  for (const auto& [config, device] : every_config()) {
    DrawingRun run(config, device);
    const GraphSample sample = sample_graphs(run.replica, *run.dataset, run.task->info(), config);
    ASSERT_TRUE(sample.picture.has_value());
    EXPECT_EQ(sample.picture->bytes(), shared_graph_bytes(graph_sizes(config)) +
                                           graph_bytes(config, run.task->info(), *run.dataset, 0));
    if (graph_sizes(config).groups == 0) continue;
    ASSERT_EQ(sample.layers.size(), 2u);
    const std::vector<ShownFigure> shown =
        shown_figures(config, run.task->info(), run.replica.facts());
    for (const LayerRecord& layer : sample.layers) {
      for (const auto& [name, heads] : layer) {
        EXPECT_EQ(heads.size(), 2u);
        for (const double value : heads) EXPECT_TRUE(std::isfinite(value)) << name;
        EXPECT_TRUE(std::any_of(shown.begin(), shown.end(), [&name = name](const auto& figure) {
          return figure.name == name;
        })) << name;
      }
    }
    const GraphSample again = sample_graphs(run.replica, *run.dataset, run.task->info(), config);
    EXPECT_EQ(again.layers, sample.layers);
  }
}

TEST(EvalResult, TakesFiguresThatWereFoundBesides) {
  EvalResult result;
  result.layers = {{{"density", {0.1, 0.2}}}, {{"density", {0.3, 0.4}}}};
  result.figures = {{"density", 0.25}};
  result.add({{{"modularity", {0.5, 0.25}}}, {{"modularity", {0.0, 0.25}}}});
  EXPECT_EQ(result.layers[0], (LayerRecord{{"density", {0.1, 0.2}}, {"modularity", {0.5, 0.25}}}));
  EXPECT_EQ(result.figures, (Named<double>{{"density", 0.25}, {"modularity", 0.25}}));
}

}  // namespace
}  // namespace stipple::trainer
