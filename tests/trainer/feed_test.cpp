// SPDX-License-Identifier: Apache-2.0
// What a task makes reaches the model on its device, and a captured step finds it there.
#include "trainer/loop/feed.h"

#include <gtest/gtest.h>

#include <cstring>

#include "kernels/cross_entropy.h"
#include "tests/support/devices.h"
#include "trainer/loop/step_graph.h"

namespace stipple::trainer {
namespace {

constexpr int64_t kMaxLength = 200;
constexpr int64_t kClasses = 5;

/// Pairs with a number each, or with a class on every token: so more labels in longer examples.
class FakeDataset final : public data::Dataset {
 public:
  explicit FakeDataset(LabelKind label) : label_(label) {}
  int64_t size() const override { return 50; }
  int64_t length(data::Draw draw, int64_t s) const override {
    return 1 + (37 * draw.example + 11 * s) % kMaxLength;
  }
  int64_t num_labels(data::Draw draw) const override {
    if (label_ == LabelKind::kValue) return 1;
    return length(draw, 0) + length(draw, 1);
  }
  void get(data::Draw draw, int64_t s, const data::ExampleSpans& to) const override {
    for (size_t k = 0; k < to.ids.size(); ++k) {
      to.ids[k] = static_cast<int32_t>(1 + draw.example + s + static_cast<int64_t>(k));
      to.segments[k] = static_cast<int32_t>(k % 2);
    }
    for (size_t k = 0; k < to.labels.size(); ++k) {
      to.labels[k] = static_cast<int32_t>(to.ids[k] % kClasses);
    }
    for (float& value : to.values) value = 0.5f * static_cast<float>(draw.example);
  }
  uint64_t fingerprint() const override { return 1; }

 private:
  LabelKind label_;
};

data::TaskInfo info_of(LabelKind label) {
  return {.name = "fake",
          .fields = {.label = label, .sequences = 2, .segments = 2},
          .vocab_size = 1000,
          .num_classes = kClasses,
          .max_length = kMaxLength};
}
const data::TaskInfo kInfo = info_of(LabelKind::kTokenClass);
constexpr int64_t kBatch = 6;
constexpr int64_t kMicroBatch = 2;

FeedOptions options_of(const data::TaskInfo& info) {
  return {.slots = kBatch / kMicroBatch,
          .global_batch = kBatch,
          .largest = {info.fields, kMicroBatch, info.max_length}};
}

/// Every array of the input holds the bits that the leaf holds.
void expect_carried(const Stream& stream, const data::Leaf& leaf, const model::Input& input) {
  for_each_array(
      leaf.sizes,
      [&](const auto& array, const auto& loaded, const auto& view) {
        SCOPED_TRACE(array.name);
        ASSERT_EQ(view.shape, array.shape);
        ASSERT_EQ(loaded.size() * sizeof(loaded[0]), array.bytes());
        std::decay_t<decltype(loaded)> arrived(loaded.size());
        download(stream, std::span(arrived), view);
        EXPECT_EQ(std::memcmp(arrived.data(), loaded.data(), array.bytes()), 0);
      },
      leaf, input);
}

void expect_every_leaf_carried(Device device, LabelKind label) {
  const FakeDataset dataset(label);
  const data::TaskInfo info = info_of(label);
  const Stream stream(device);
  data::TrainBatches batches(dataset, info, {.batch = kBatch, .micro_batch = kMicroBatch});
  Feed feed(stream, options_of(info));
  std::vector<data::Leaf> leaves(static_cast<size_t>(batches.num_leaves()));
  for (int64_t step = 0; step < 5; ++step) {
    for (int64_t i = 0; i < batches.num_leaves(); ++i) {
      batches.load(step, i, leaves[static_cast<size_t>(i)]);
      feed.put(step, i, leaves[static_cast<size_t>(i)]);
    }
    for (int64_t i = 0; i < batches.num_leaves(); ++i) {
      expect_carried(stream, leaves[static_cast<size_t>(i)], feed.input(i));
      EXPECT_EQ(feed.input(i).batch_share, 1.0f / 3);
    }
  }
}

TEST(Feed, BringsEveryArrayOfALeafToTheDevice) {
  for (Device device : test::test_devices()) {
    SCOPED_TRACE(test::name_of(device));
    for (const LabelKind label : {LabelKind::kTokenClass, LabelKind::kValue}) {
      expect_every_leaf_carried(device, label);
    }
  }
}

TEST(Feed, KnowsHowManyLabelsThereAreUnlessStepsAreReplayed) {
  for (Device device : test::test_devices()) {
    SCOPED_TRACE(test::name_of(device));
    const FakeDataset dataset(LabelKind::kTokenClass);
    const Stream stream(device);
    data::TrainBatches batches(dataset, kInfo, {.batch = kBatch, .micro_batch = kMicroBatch});
    data::Leaf leaf;
    batches.load(0, 0, leaf);
    FeedOptions options = options_of(kInfo);
    Feed eager(stream, options);
    eager.put(0, 0, leaf);
    EXPECT_EQ(eager.input(0).num_labels, leaf.num_labels);
    EXPECT_GT(leaf.num_labels, 0);
    options.is_captured = true;
    Feed captured(stream, options);
    captured.put(0, 0, leaf);
    EXPECT_EQ(captured.input(0).num_labels, std::nullopt);
  }
}

TEST(Feed, SaysTheShapesOfALeafWithoutMemory) {
  const FeedOptions options = options_of(kInfo);
  const model::Input input = input_over(nullptr, options, options.largest);
  for_each_array(
      options.largest,
      [](const auto& array, const auto& view) {
        EXPECT_EQ(view.shape, array.shape) << array.name;
        EXPECT_EQ(view.data, nullptr) << array.name;
      },
      input);
}

TEST(StepGraph, IsReplayedForLeavesWithAnotherNumberOfLabels) {
  if (cuda::device_count() == 0) GTEST_SKIP() << cuda::why_no_device();
  const FakeDataset dataset(LabelKind::kTokenClass);
  test::DeviceMemory memory(cuda_device(0));
  const Stream& stream = memory.stream();
  data::TrainBatches batches(dataset, kInfo,
                             {.batch = kBatch, .micro_batch = kMicroBatch, .fixed_length = true});
  Feed feed(stream, options_of(kInfo));
  constexpr size_t kFlights = 2;
  StepGraph graph(kFlights);
  const int64_t rows = options_of(kInfo).largest.rows() * kMaxLength;
  const View<float> logits = memory.put(test::random_normal({rows, kClasses}, 1));
  const View<float> captured = memory.fresh<float>({rows, kClasses});
  const View<float> eager = memory.fresh<float>({rows, kClasses});
  const View<double> loss = memory.zeros<double>({1});
  const View<int64_t> correct = memory.zeros<int64_t>({1}), count = memory.zeros<int64_t>({1});
  const auto compute = [&](View<float> dlogits) {
    kernels::cross_entropy(stream, {.dlogits = dlogits,
                                    .loss_sum = loss,
                                    .correct = correct,
                                    .count = count,
                                    .logits = logits,
                                    .labels = feed.input(0).labels.reshape({rows}),
                                    .scale = feed.input(0).loss_scale,
                                    .scratch = &memory.scratch()});
  };
  std::vector<float> scales;
  for (int64_t step = 0; step < 6; ++step) {
    SCOPED_TRACE(step);
    data::Leaf leaf;
    batches.load(step, 0, leaf);
    scales.push_back(leaf.loss_scale[0]);
    feed.put(step, 0, leaf);
    const bool was_replayed =
        graph.run(stream, static_cast<size_t>(step) % kFlights, [&] { compute(captured); });
    EXPECT_EQ(was_replayed, step > 0);
    compute(eager);
    EXPECT_EQ(memory.get(captured).values(), memory.get(eager).values());
  }
  EXPECT_NE(scales.front(), scales.back());
}

}  // namespace
}  // namespace stipple::trainer
