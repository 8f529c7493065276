// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "core/config.h"
#include "core/error.h"
#include "data/task_config.h"

namespace stipple::data {
namespace {

DataConfig config_of(int64_t sequence, int64_t train_examples = 0) {
  DataConfig config;
  config.task = TaskKind::kRepeatedToken;
  config.repeated_token.sequence = sequence;
  config.repeated_token.train_examples = train_examples;
  return config;
}

struct Example {
  std::vector<int32_t> ids;
  std::vector<int32_t> labels;
  bool operator==(const Example&) const = default;
};

Example get(const Dataset& dataset, int64_t i) {
  const auto n = static_cast<size_t>(dataset.length({.example = i}, 0));
  Example example{std::vector<int32_t>(n), std::vector<int32_t>(n, 77)};
  dataset.get({.example = i}, 0, {.ids = example.ids, .labels = example.labels});
  return example;
}

TEST(RepeatedToken, LabelSaysWhetherTheTokenOccursAgain) {
  for (int64_t sequence : {1, 2, 7, 256, 1000}) {
    const auto dataset = make_task(config_of(sequence), 3)->open(Split::kTrain);
    for (int64_t i = 0; i < 20; ++i) {
      const Example example = get(*dataset, i);
      ASSERT_EQ(static_cast<int64_t>(example.ids.size()), sequence);
      for (size_t k = 0; k < example.ids.size(); ++k) {
        ASSERT_GE(example.ids[k], 1);
        ASSERT_LE(example.ids[k], sequence);
        const auto count = std::count(example.ids.begin(), example.ids.end(), example.ids[k]);
        ASSERT_EQ(example.labels[k], count >= 2 ? 1 : 0);
      }
    }
  }
}

TEST(RepeatedToken, InfoDescribesTheModelsEnds) {
  const TaskInfo info = make_task(config_of(256), 0)->info();
  EXPECT_EQ(info.name, "repeated_token");
  EXPECT_EQ(info.fields.label, LabelKind::kTokenClass);
  EXPECT_EQ(info.vocab_size, 257);
  EXPECT_EQ(info.num_classes, 2);
  EXPECT_EQ(info.max_length, 256);
}

TEST(RepeatedToken, ExampleIsAFunctionOfSeedSplitAndNumber) {
  const auto dataset = make_task(config_of(64), 3)->open(Split::kTrain);
  const auto again = make_task(config_of(64), 3)->open(Split::kTrain);
  const auto other_seed = make_task(config_of(64), 4)->open(Split::kTrain);
  const auto other_split = make_task(config_of(64), 3)->open(Split::kValidation);
  const Example last = get(*dataset, dataset->size() - 1);
  EXPECT_EQ(get(*again, again->size() - 1), last);
  EXPECT_EQ(get(*again, 5), get(*dataset, 5));
  EXPECT_NE(get(*dataset, 6), get(*dataset, 5));
  EXPECT_NE(get(*other_seed, 5), get(*dataset, 5));
  EXPECT_NE(get(*other_split, 5), get(*dataset, 5));
}

TEST(RepeatedToken, SizesComeFromTheConfiguration) {
  DataConfig config = config_of(64, 1000);
  config.repeated_token.eval_examples = 33;
  const auto task = make_task(config, 0);
  EXPECT_EQ(task->open(Split::kTrain)->size(), 1000);
  EXPECT_EQ(task->open(Split::kValidation)->size(), 33);
  EXPECT_EQ(task->open(Split::kTest)->size(), 33);
  EXPECT_NE(get(*task->open(Split::kValidation), 0), get(*task->open(Split::kTest), 0));
  EXPECT_GE(make_task(config_of(64), 0)->open(Split::kTrain)->size(), int64_t{1} << 40);
  EXPECT_THROW(get(*task->open(Split::kTest), 33), Error);
}

TEST(RepeatedToken, FingerprintTellsCollectionsApart) {
  const auto fingerprint = [](const DataConfig& config, uint64_t seed, Split split) {
    return make_task(config, seed)->open(split)->fingerprint();
  };
  const uint64_t here = fingerprint(config_of(64), 1, Split::kTrain);
  EXPECT_EQ(fingerprint(config_of(64), 1, Split::kTrain), here);
  EXPECT_NE(fingerprint(config_of(65), 1, Split::kTrain), here);
  EXPECT_NE(fingerprint(config_of(64, 10), 1, Split::kTrain), here);
  EXPECT_NE(fingerprint(config_of(64), 2, Split::kTrain), here);
  EXPECT_NE(fingerprint(config_of(64), 1, Split::kTest), here);
}

TEST(RepeatedToken, TokensAreUniform) {
  const auto dataset = make_task(config_of(16), 8)->open(Split::kTrain);
  std::vector<int> counts(17);
  for (int64_t i = 0; i < 4000; ++i) {
    for (int32_t id : get(*dataset, i).ids) ++counts[static_cast<size_t>(id)];
  }
  // 4000 expected each, standard deviation 61.
  for (size_t id = 1; id <= 16; ++id) EXPECT_NEAR(counts[id], 4000, 310) << "token " << id;
}

TEST(RepeatedToken, LadderIsTheShareOfRepeatedTokens) {
  const auto task = make_task(config_of(256), 0);
  for (Split split : {Split::kTrain, Split::kValidation}) {
    const auto rungs = task->ladder(*task->open(split));
    ASSERT_EQ(rungs.size(), 1u);
    EXPECT_EQ(rungs[0].name, "always repeated");
    // 1 - (1 - 1/256)^255
    EXPECT_NEAR(rungs[0].value, 0.631, 0.006);
  }
}

TEST(DataConfig, ReadsEveryKey) {
  DataConfig config;
  load_config_text(
      "task: repeated_token\ndir: somewhere\nmax_length: 100\n"
      "repeated_token: {sequence: 128, train_examples: 9, eval_examples: 7}\n",
      "test.yaml", [&](ConfigVisitor& visitor) { config.describe(visitor); });
  EXPECT_EQ(config.task, TaskKind::kRepeatedToken);
  EXPECT_EQ(config.dir, "somewhere");
  EXPECT_EQ(config.max_length, 100);
  EXPECT_EQ(config.repeated_token.sequence, 128);
  EXPECT_EQ(config.repeated_token.train_examples, 9);
  EXPECT_EQ(config.repeated_token.eval_examples, 7);
  EXPECT_EQ(make_task(config, 0)->info().name, "repeated_token");
}

TEST(DataConfig, RefusesValuesOutsideTheirRange) {
  for (const char* text :
       {"max_length: 0", "max_length: 65537", "task: images", "repeated_token: {sequence: 0}",
        "repeated_token: {eval_examples: 0}", "repeated_token: {train_examples: -1}"}) {
    DataConfig config;
    EXPECT_THROW(load_config_text(text, "test.yaml",
                                  [&](ConfigVisitor& visitor) { config.describe(visitor); }),
                 ConfigError)
        << text;
  }
}

}  // namespace
}  // namespace stipple::data
