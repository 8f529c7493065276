// SPDX-License-Identifier: Apache-2.0
#include "data/batch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "core/error.h"
#include "data/shuffle.h"
#include "tests/support/allocation_count.h"

namespace stipple::data {
namespace {

constexpr int64_t kMaxLength = 300;

/// Token k of sequence s of example i is 1 + (31 i + 500 s + k) % 1000; its label, a class or a
/// number, is (i + s + k + epoch) % 7, or none where that is 0. The first token is of segment 2, the others of
/// segment 1. `lengths` are those of first sequences.
class FakeDataset final : public Dataset {
 public:
  FakeDataset(std::vector<int64_t> lengths, const LeafFields& fields)
      : lengths_(std::move(lengths)), fields_(fields) {}
  FakeDataset(std::vector<int64_t> lengths, LabelKind label)
      : FakeDataset(std::move(lengths), LeafFields{.label = label}) {}
  int64_t size() const override { return static_cast<int64_t>(lengths_.size()); }
  int64_t length(Draw draw, int64_t s) const override {
    const int64_t first = lengths_.at(static_cast<size_t>(draw.example));
    return s == 0 ? first : 1 + (7 * first + draw.example) % kMaxLength;
  }
  int64_t num_labels(Draw draw) const override {
    int64_t labels = 0;
    for (int64_t s = 0; s < fields_.sequences; ++s) {
      for (int64_t k = 0; k < spots(draw, s); ++k) labels += label(draw, s, k) >= 0 ? 1 : 0;
    }
    return labels + lie;
  }
  void get(Draw draw, int64_t s, const ExampleSpans& to) const override {
    ASSERT_EQ(static_cast<int64_t>(to.ids.size()), length(draw, s));
    ASSERT_EQ(to.segments.size(), fields_.segments > 0 ? to.ids.size() : 0);
    const bool is_value = fields_.label == LabelKind::kValue;
    ASSERT_EQ(static_cast<int64_t>(to.labels.size()), is_value ? 0 : spots(draw, s));
    ASSERT_EQ(static_cast<int64_t>(to.values.size()), is_value ? spots(draw, s) : 0);
    for (size_t k = 0; k < to.ids.size(); ++k) {
      to.ids[k] = token(draw.example, s, static_cast<int64_t>(k));
    }
    for (size_t k = 0; k < to.segments.size(); ++k) {
      to.segments[k] = segment(static_cast<int64_t>(k));
    }
    for (size_t k = 0; k < to.labels.size(); ++k) {
      to.labels[k] = label(draw, s, static_cast<int64_t>(k));
    }
    for (float& value : to.values) {
      if (label(draw, 0, 0) >= 0) value = static_cast<float>(label(draw, 0, 0));
    }
  }
  uint64_t fingerprint() const override { return 1; }

  static int32_t token(int64_t i, int64_t s, int64_t k) {
    return static_cast<int32_t>(1 + (31 * i + 500 * s + k) % 1000);
  }
  static int32_t segment(int64_t k) { return k == 0 ? 2 : 1; }
  static int32_t label(Draw draw, int64_t s, int64_t k) {
    const int64_t x = draw.example + s + k + static_cast<int64_t>(draw.epoch);
    return x % 7 == 0 ? -1 : static_cast<int32_t>(x % 7);
  }
  /// Places for labels.
  int64_t spots(Draw draw, int64_t s) const {
    if (is_per_token(fields_.label)) return length(draw, s);
    return s == 0 ? 1 : 0;
  }
  const LeafFields& fields() const { return fields_; }

  int64_t lie = 0;  ///< added to the number of labels

 private:
  std::vector<int64_t> lengths_;
  LeafFields fields_;
};

/// What examples may consist of.
const LeafFields kEveryFields[] = {
    {.label = LabelKind::kClass},
    {.label = LabelKind::kTokenClass},
    {.label = LabelKind::kValue},
    {.label = LabelKind::kValue, .sequences = 2},
    {.label = LabelKind::kClass, .segments = 3},
    {.label = LabelKind::kClass, .sequences = 2},
    {.label = LabelKind::kTokenClass, .sequences = 3, .segments = 3},
    {.label = LabelKind::kMaskedToken, .segments = 3},
};

std::vector<int64_t> random_lengths(int64_t n) {
  std::mt19937_64 generator(11);
  std::uniform_int_distribution<int64_t> uniform(1, kMaxLength);
  std::vector<int64_t> lengths(static_cast<size_t>(n));
  for (int64_t& x : lengths) x = uniform(generator);
  return lengths;
}

TaskInfo info_of(const LeafFields& fields, int64_t max_length = kMaxLength) {
  return {.name = "fake",
          .fields = fields,
          .vocab_size = 1001,
          .num_classes = 7,
          .max_length = max_length};
}

const TaskInfo kSequenceInfo = info_of({.label = LabelKind::kClass});
const TaskInfo kTokenInfo = info_of({.label = LabelKind::kTokenClass});

std::vector<Leaf> load_step(TrainBatches& batches, int64_t step) {
  std::vector<Leaf> leaves(static_cast<size_t>(batches.num_leaves()));
  for (size_t i = 0; i < leaves.size(); ++i) {
    batches.load(step, static_cast<int64_t>(i), leaves[i]);
  }
  return leaves;
}

/// A row must hold exactly its sequence, and nothing on padding.
void expect_row(const Leaf& leaf, const FakeDataset& dataset, Draw draw, int64_t sequence,
                int64_t row) {
  const bool per_token = is_per_token(dataset.fields().label);
  const int64_t length = draw.example < 0 ? 0 : dataset.length(draw, sequence);
  for (int64_t k = 0; k < leaf.sizes.length; ++k) {
    const auto at = static_cast<size_t>(row * leaf.sizes.length + k);
    const bool real = k < length;
    ASSERT_EQ(leaf.mask[at], real ? 1 : 0);
    ASSERT_EQ(leaf.ids[at], real ? FakeDataset::token(draw.example, sequence, k) : 0);
    if (dataset.fields().segments > 0) {
      ASSERT_EQ(leaf.segments[at], real ? FakeDataset::segment(k) : 0);
    }
    if (per_token) {
      ASSERT_EQ(leaf.labels[at], real ? FakeDataset::label(draw, sequence, k) : -1);
    }
  }
}

/// The tokens with a label, ascending, then nothing.
void expect_labels_listed(const Leaf& leaf) {
  std::vector<int32_t> rows, labels;
  for (size_t i = 0; i < leaf.labels.size(); ++i) {
    if (leaf.labels[i] < 0) continue;
    rows.push_back(static_cast<int32_t>(i));
    labels.push_back(leaf.labels[i]);
  }
  ASSERT_EQ(leaf.num_labels, static_cast<int64_t>(rows.size()));
  rows.resize(leaf.labels.size(), 0);
  labels.resize(leaf.labels.size(), -1);
  ASSERT_EQ(leaf.label_rows, rows);
  ASSERT_EQ(leaf.row_labels, labels);
}

void expect_contents(const Leaf& leaf, const FakeDataset& dataset) {
  ASSERT_EQ(static_cast<int64_t>(leaf.draws.size()), leaf.sizes.batch);
  for_each_array(
      leaf.sizes,
      [](const auto& array, const auto& memory) {
        ASSERT_EQ(static_cast<int64_t>(memory.size()), array.shape.numel()) << array.name;
      },
      leaf);
  if (dataset.fields().label == LabelKind::kMaskedToken) expect_labels_listed(leaf);
  const int64_t sequences = dataset.fields().sequences;
  for (int64_t place = 0; place < leaf.sizes.batch; ++place) {
    const Draw draw = leaf.draws[static_cast<size_t>(place)];
    for (int64_t s = 0; s < sequences; ++s) {
      expect_row(leaf, dataset, draw, s, place * sequences + s);
    }
    const int32_t label = draw.example < 0 ? -1 : FakeDataset::label(draw, 0, 0);
    const auto at = static_cast<size_t>(place);
    if (dataset.fields().label == LabelKind::kClass) {
      ASSERT_EQ(leaf.labels[at], label);
    }
    if (dataset.fields().label != LabelKind::kValue) continue;
    if (label < 0) {
      ASSERT_TRUE(std::isnan(leaf.values[at]));
    } else {
      ASSERT_EQ(leaf.values[at], static_cast<float>(label));
    }
  }
}

void expect_same(const Leaf& a, const Leaf& b) {
  EXPECT_EQ(a.sizes.length, b.sizes.length);
  EXPECT_EQ(a.ids, b.ids);
  EXPECT_EQ(a.segments, b.segments);
  EXPECT_EQ(a.mask, b.mask);
  EXPECT_EQ(a.labels, b.labels);
  EXPECT_EQ(a.samples, b.samples);
  EXPECT_EQ(a.loss_scale, b.loss_scale);
  EXPECT_EQ(a.draws, b.draws);
}

TEST(TrainBatches, EachEpochShowsEachExampleOnce) {
  // 24 does not divide 50: epochs end within a batch.
  constexpr int64_t kSize = 50;
  constexpr int64_t kBatch = 24;
  const FakeDataset dataset(random_lengths(kSize), LabelKind::kClass);
  TrainBatches batches(dataset, kSequenceInfo, {.seed = 5, .batch = kBatch, .micro_batch = 4});
  std::vector<int64_t> by_position(kSize * kBatch, -1);
  for (int64_t step = 0; step < kSize; ++step) {
    for (const Leaf& leaf : load_step(batches, step)) {
      for (size_t row = 0; row < leaf.draws.size(); ++row) {
        const int64_t position = step * kBatch + leaf.samples[row];
        int64_t& example = by_position.at(static_cast<size_t>(position));
        ASSERT_EQ(example, -1) << "a slot came twice";
        example = leaf.draws[row].example;
        EXPECT_EQ(leaf.draws[row].epoch, static_cast<uint64_t>(position / kSize));
      }
    }
  }
  std::vector<int64_t> everything(kSize);
  std::iota(everything.begin(), everything.end(), 0);
  for (auto epoch = by_position.begin(); epoch != by_position.end(); epoch += kSize) {
    std::vector<int64_t> seen(epoch, epoch + kSize);
    std::sort(seen.begin(), seen.end());
    EXPECT_EQ(seen, everything);
  }
  EXPECT_FALSE(
      std::equal(by_position.begin(), by_position.begin() + kSize, by_position.begin() + kSize))
      << "two epochs have the same order";
}

TEST(TrainBatches, MayBeginAnywhereWithAnotherBatch) {
  const FakeDataset dataset(random_lengths(50), LabelKind::kClass);
  // Batches of 8 up to step 5, then of 20: positions 40 to 79.
  TrainBatches all(dataset, kSequenceInfo, {.seed = 5, .batch = 4, .micro_batch = 4});
  TrainBatches later(dataset, kSequenceInfo,
                     {.seed = 5,
                      .batch = 20,
                      .micro_batch = 4,
                      .first_step = 5,
                      .first_position = 40,
                      .first_epoch = 3});
  const auto draws_of = [](TrainBatches& batches, int64_t begin, int64_t end) {
    std::multiset<std::pair<int64_t, uint64_t>> draws;
    for (int64_t step = begin; step < end; ++step) {
      for (const Leaf& leaf : load_step(batches, step))
        for (const Draw& draw : leaf.draws) draws.insert({draw.example, draw.epoch});
    }
    return draws;
  };
  std::multiset<std::pair<int64_t, uint64_t>> expected;
  for (uint64_t g = 40; g < 80; ++g) {
    const uint64_t epoch = 3 + g / 50;
    expected.insert({static_cast<int64_t>(Shuffle(50, 5, epoch)(g % 50)), epoch});
  }
  EXPECT_EQ(draws_of(later, 5, 7), expected);
  TrainBatches same(
      dataset, kSequenceInfo,
      {.seed = 5, .batch = 20, .micro_batch = 4, .first_step = 5, .first_position = 40});
  EXPECT_EQ(draws_of(same, 5, 7), draws_of(all, 10, 20));
  Leaf leaf;
  EXPECT_THROW(later.load(4, 0, leaf), Error);
}

TEST(TrainBatches, StepDoesNotDependOnWhatWasLoadedBefore) {
  const FakeDataset dataset(random_lengths(100), LabelKind::kClass);
  const BatchOptions options{.seed = 5, .batch = 32, .micro_batch = 4};
  TrainBatches straight(dataset, kSequenceInfo, options);
  std::vector<Leaf> expected;
  for (int64_t step = 0; step <= 17; ++step) expected = load_step(straight, step);

  TrainBatches resumed(dataset, kSequenceInfo, options);
  for (int64_t i = resumed.num_leaves(); i-- > 0;) {
    Leaf leaf;
    resumed.load(17, i, leaf);
    expect_same(leaf, expected[static_cast<size_t>(i)]);
  }
}

TEST(TrainBatches, SamplesOfAStepDoNotDependOnTheMicroBatch) {
  const FakeDataset dataset(random_lengths(100), LabelKind::kClass);
  std::map<uint32_t, int64_t> example_of_slot;
  for (int64_t micro_batch : {1, 4, 6, 24}) {
    TrainBatches batches(dataset, kSequenceInfo,
                         {.seed = 5, .batch = 24, .micro_batch = micro_batch});
    for (const Leaf& leaf : load_step(batches, 3)) {
      for (size_t row = 0; row < leaf.samples.size(); ++row) {
        const int64_t example = leaf.draws[row].example;
        EXPECT_EQ(example_of_slot.emplace(leaf.samples[row], example).first->second, example);
      }
    }
    EXPECT_EQ(example_of_slot.size(), 24u);
  }
}

TEST(TrainBatches, SeedChangesTheOrder) {
  const FakeDataset dataset(random_lengths(100), LabelKind::kClass);
  TrainBatches a(dataset, kSequenceInfo, {.seed = 5, .batch = 32, .micro_batch = 32});
  TrainBatches b(dataset, kSequenceInfo, {.seed = 6, .batch = 32, .micro_batch = 32});
  EXPECT_FALSE(load_step(a, 0)[0].draws == load_step(b, 0)[0].draws);
}

TEST(TrainBatches, LeavesHoldTheirExamplesAndNothingElse) {
  for (const LeafFields& fields : kEveryFields) {
    const FakeDataset dataset(random_lengths(40), fields);
    TrainBatches batches(dataset, info_of(fields), {.seed = 1, .batch = 12, .micro_batch = 3});
    for (int64_t step = 0; step < 5; ++step) {
      for (const Leaf& leaf : load_step(batches, step)) expect_contents(leaf, dataset);
    }
  }
}

TEST(TrainBatches, EverySequenceOfTheGlobalBatchHasItsOwnSample) {
  for (const LeafFields& fields : kEveryFields) {
    const FakeDataset dataset(random_lengths(40), fields);
    TrainBatches batches(dataset, info_of(fields), {.batch = 12, .micro_batch = 3});
    std::vector<uint32_t> samples;
    for (const Leaf& leaf : load_step(batches, 0)) {
      samples.insert(samples.end(), leaf.samples.begin(), leaf.samples.end());
    }
    std::sort(samples.begin(), samples.end());
    std::vector<uint32_t> expected(static_cast<size_t>(12 * fields.sequences));
    std::iota(expected.begin(), expected.end(), 0u);
    EXPECT_EQ(samples, expected);
  }
}

TEST(TrainBatches, LoadOverwritesWhatTheLeafHeldBefore) {
  for (const LeafFields& fields : kEveryFields) {
    const FakeDataset dataset(random_lengths(40), fields);
    TrainBatches batches(dataset, info_of(fields), {.seed = 1, .batch = 12, .micro_batch = 3});
    Leaf leaf;
    for (int64_t i = 0; i < 20; ++i) {
      batches.load(i / 4, i % 4, leaf);
      expect_contents(leaf, dataset);
    }
  }
}

TEST(TrainBatches, LeavesHoldExamplesOfLikeLength) {
  const FakeDataset dataset(random_lengths(64), LabelKind::kClass);
  TrainBatches batches(dataset, kSequenceInfo, {.seed = 1, .batch = 64, .micro_batch = 8});
  std::vector<std::pair<int64_t, int64_t>> extents;
  for (const Leaf& leaf : load_step(batches, 0)) {
    std::vector<int64_t> lengths;
    for (const Draw& draw : leaf.draws) lengths.push_back(dataset.length(draw, 0));
    extents.emplace_back(*std::min_element(lengths.begin(), lengths.end()),
                         *std::max_element(lengths.begin(), lengths.end()));
  }
  std::sort(extents.begin(), extents.end());
  for (size_t i = 1; i < extents.size(); ++i) {
    EXPECT_LE(extents[i - 1].second, extents[i].first) << "two leaves overlap in length";
  }
}

int64_t num_tokens(const Leaf& leaf) {
  return std::accumulate(leaf.mask.begin(), leaf.mask.end(), int64_t{0});
}

/// The work of consecutive runs of leaves, heaviest over lightest.
double imbalance(int64_t num_leaves, int64_t run) {
  constexpr int64_t kMicroBatch = 4;
  const FakeDataset dataset(random_lengths(num_leaves * kMicroBatch), LabelKind::kClass);
  TrainBatches batches(dataset, kSequenceInfo,
                       {.seed = 1, .batch = num_leaves * kMicroBatch, .micro_batch = kMicroBatch});
  std::vector<int64_t> work(static_cast<size_t>(num_leaves / run));
  const std::vector<Leaf> leaves = load_step(batches, 0);
  for (size_t i = 0; i < leaves.size(); ++i) {
    work[i / static_cast<size_t>(run)] += num_tokens(leaves[i]);
  }
  const auto [least, most] = std::minmax_element(work.begin(), work.end());
  return static_cast<double>(*most) / static_cast<double>(*least);
}

TEST(TrainBatches, AlignedRunsOfLeavesCarryLikeWork) {
  // Single leaves differ by a factor of about 100: the longest examples against the shortest.
  EXPECT_GT(imbalance(32, 1), 10);
  EXPECT_LT(imbalance(32, 2), 1.15);
  EXPECT_LT(imbalance(32, 4), 1.08);
  EXPECT_LT(imbalance(32, 8), 1.04);
  EXPECT_LT(imbalance(32, 16), 1.02);
}

TEST(TrainBatches, AnyNumberOfLeavesIsSharedFairly) {
  EXPECT_LT(imbalance(12, 4), 1.2);
  EXPECT_LT(imbalance(12, 6), 1.1);
  EXPECT_LT(imbalance(24, 8), 1.1);
  EXPECT_LT(imbalance(20, 4), 1.3);
}

int64_t length_of_leaf(int64_t example_length, int64_t max_length, bool fixed_length,
                       int64_t length_multiple = 64) {
  const FakeDataset dataset({example_length}, LabelKind::kClass);
  TrainBatches batches(dataset, info_of({.label = LabelKind::kClass}, max_length),
                       {.batch = 1,
                        .micro_batch = 1,
                        .length_multiple = length_multiple,
                        .fixed_length = fixed_length});
  return load_step(batches, 0)[0].sizes.length;
}

TEST(TrainBatches, LengthIsAMultipleUpToTheLongest) {
  EXPECT_EQ(length_of_leaf(1, 300, false), 64);
  EXPECT_EQ(length_of_leaf(64, 300, false), 64);
  EXPECT_EQ(length_of_leaf(65, 300, false), 128);
  EXPECT_EQ(length_of_leaf(257, 300, false), 300);
  EXPECT_EQ(length_of_leaf(300, 300, false), 300);
  EXPECT_EQ(length_of_leaf(20, 20, false), 20);
  EXPECT_EQ(length_of_leaf(1, 300, true), 300);
  EXPECT_EQ(length_of_leaf(65, 300, false, 8), 72);
  EXPECT_EQ(length_of_leaf(298, 300, false, 8), 300);
  EXPECT_EQ(length_of_leaf(65, 300, false, 1), 65);
  EXPECT_EQ(length_of_leaf(65, 300, true, 8), 300);
}

int64_t count_labels(const Leaf& leaf) {
  return std::count_if(leaf.labels.begin(), leaf.labels.end(), [](int32_t x) { return x >= 0; }) +
         std::count_if(leaf.values.begin(), leaf.values.end(), [](float x) { return x >= 0; });
}

TEST(TrainBatches, EveryLeafKnowsTheLabelsOfTheWholeGlobalBatch) {
  for (const LeafFields& fields : kEveryFields) {
    const FakeDataset dataset(random_lengths(40), fields);
    TrainBatches batches(dataset, info_of(fields), {.batch = 12, .micro_batch = 3});
    for (int64_t step = 0; step < 4; ++step) {
      const std::vector<Leaf> leaves = load_step(batches, step);
      int64_t labels = 0;
      for (const Leaf& leaf : leaves) labels += count_labels(leaf);
      for (const Leaf& leaf : leaves) {
        EXPECT_EQ(leaf.loss_scale, std::vector<float>{1.0f / static_cast<float>(labels)});
      }
    }
  }
}

TEST(TrainBatches, ABatchWithoutLabelsHasAFiniteScale) {
  const FakeDataset dataset({1}, LabelKind::kClass);  // its only label is none in epoch 0
  TrainBatches batches(dataset, kSequenceInfo, {.batch = 1, .micro_batch = 1});
  EXPECT_EQ(load_step(batches, 0)[0].loss_scale, std::vector<float>{1.0f});
}

TEST(TrainBatches, RefusesLabelsThatWereNotAnnounced) {
  for (const int64_t lie : {-1, 1}) {
    FakeDataset dataset(random_lengths(40), LabelKind::kTokenClass);
    dataset.lie = lie;
    TrainBatches batches(dataset, kTokenInfo, {.batch = 12, .micro_batch = 3});
    EXPECT_THROW(load_step(batches, 0), Error);
  }
}

TEST(TrainBatches, SteadyStateAllocatesNothing) {
  // The first leaf is a short one: its storage must do for the longest.
  std::vector<int64_t> lengths(40, 1);
  lengths[17] = kMaxLength;
  for (const LeafFields& fields : kEveryFields) {
    const FakeDataset dataset(lengths, fields);
    TrainBatches batches(dataset, info_of(fields), {.batch = 8, .micro_batch = 2});
    Leaf leaf;
    int64_t first = 0;
    batches.load(first, 0, leaf);
    while (leaf.sizes.length == kMaxLength) batches.load(++first, 0, leaf);
    const int64_t before = test::allocations;
    bool is_longest_seen = false;
    for (int64_t i = 0; i < 80; ++i) {
      batches.load(first + 1 + i / 4, i % 4, leaf);
      is_longest_seen = is_longest_seen || leaf.sizes.length == kMaxLength;
    }
    EXPECT_EQ(test::allocations, before);
    EXPECT_TRUE(is_longest_seen);
  }
}

TEST(TrainBatches, RefusesImpossibleOptions) {
  const FakeDataset dataset(random_lengths(40), LabelKind::kClass);
  const FakeDataset empty({}, LabelKind::kClass);
  const auto make = [](const Dataset& data, int64_t batch, int64_t micro_batch) {
    TrainBatches(data, kSequenceInfo, {.batch = batch, .micro_batch = micro_batch});
  };
  EXPECT_THROW(make(dataset, 10, 4), ConfigError);
  EXPECT_THROW(make(dataset, 0, 4), ConfigError);
  EXPECT_THROW(make(dataset, -4, 4), ConfigError);
  EXPECT_THROW(make(dataset, 4, 0), ConfigError);
  EXPECT_THROW(make(empty, 4, 4), DataError);
}

TEST(EvalBatches, EachExampleComesOnce) {
  for (const LeafFields& fields : kEveryFields) {
    const FakeDataset dataset(random_lengths(43), fields);
    const EvalBatches batches(dataset, info_of(fields), {.batch = 8, .micro_batch = 4});
    ASSERT_EQ(batches.num_leaves(), 11);
    std::vector<int> seen(43);
    Leaf leaf;
    for (int64_t i = 0; i < batches.num_leaves(); ++i) {
      batches.load(i, leaf);
      ASSERT_EQ(leaf.sizes.batch, 4);
      expect_contents(leaf, dataset);
      for (size_t row = 0; row < 4; ++row) {
        const Draw draw = leaf.draws[row];
        if (draw.example < 0) continue;
        ++seen[static_cast<size_t>(draw.example)];
        EXPECT_EQ(leaf.samples[row * static_cast<size_t>(fields.sequences)],
                  draw.example * fields.sequences);
        EXPECT_EQ(draw.epoch, 0u);
      }
    }
    EXPECT_EQ(seen, std::vector<int>(43, 1));
    EXPECT_EQ(leaf.draws[3].example, -1) << "43 examples leave one empty row in the last leaf";
    EXPECT_EQ(leaf.samples.back(), 0u);
    EXPECT_EQ(leaf.loss_scale, std::vector<float>{1.0f});
  }
}

TEST(EvalBatches, LeavesComeByFallingLength) {
  const FakeDataset dataset(random_lengths(64), LabelKind::kClass);
  const EvalBatches batches(dataset, kSequenceInfo, {.batch = 4, .micro_batch = 4});
  std::vector<int64_t> lengths;
  Leaf leaf;
  for (int64_t i = 0; i < batches.num_leaves(); ++i) {
    batches.load(i, leaf);
    for (const Draw& draw : leaf.draws) lengths.push_back(dataset.length(draw, 0));
  }
  EXPECT_TRUE(std::is_sorted(lengths.rbegin(), lengths.rend()));
}

TEST(EvalBatches, FixedLengthAndEmptyDataAreLegal) {
  const FakeDataset dataset({3, 5}, LabelKind::kClass);
  const EvalBatches fixed(dataset, kSequenceInfo,
                          {.batch = 2, .micro_batch = 2, .fixed_length = true});
  Leaf leaf;
  fixed.load(0, leaf);
  EXPECT_EQ(leaf.sizes.length, kMaxLength);
  const FakeDataset empty({}, LabelKind::kClass);
  EXPECT_EQ(EvalBatches(empty, kSequenceInfo, {.batch = 2, .micro_batch = 2}).num_leaves(), 0);
  EXPECT_THROW(fixed.load(1, leaf), Error);
}

TEST(EvalBatches, SteadyStateAllocatesNothing) {
  const FakeDataset dataset(random_lengths(43), LabelKind::kTokenClass);
  const EvalBatches batches(dataset, kTokenInfo, {.batch = 8, .micro_batch = 4});
  Leaf leaf;
  batches.load(batches.num_leaves() - 1, leaf);
  const int64_t before = test::allocations;
  for (int64_t i = 0; i < batches.num_leaves(); ++i) batches.load(i, leaf);
  EXPECT_EQ(test::allocations, before);
}

}  // namespace
}  // namespace stipple::data
