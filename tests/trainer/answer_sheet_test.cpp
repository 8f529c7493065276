// SPDX-License-Identifier: Apache-2.0
// Answers of all examples come together in their order, whatever the ranks and leaves.
#include "trainer/loop/answer_sheet.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "comm/threads/thread_group.h"
#include "trainer/loop/replica.h"

namespace stipple::trainer {
namespace {

constexpr int64_t kExamples = 23;
constexpr int64_t kLeafSize = 4;

/// Sequences of falling and rising lengths, so that leaves hold examples out of order; every fifth
/// has no label.
class FakeExamples final : public data::Dataset {
 public:
  explicit FakeExamples(LabelKind label) : label_(label) {}
  int64_t size() const override { return kExamples; }
  int64_t length(data::Draw draw, int64_t) const override { return 1 + 7 * draw.example % 19; }
  int64_t num_labels(data::Draw draw) const override { return has_label(draw.example) ? 1 : 0; }
  void get(data::Draw draw, int64_t, const data::ExampleSpans& to) const override {
    std::fill(to.ids.begin(), to.ids.end(), static_cast<int32_t>(draw.example));
    if (!has_label(draw.example)) return;
    if (label_ == LabelKind::kValue) {
      to.values[0] = 0.3f * static_cast<float>(draw.example);
    } else {
      to.labels[0] = static_cast<int32_t>(draw.example % 3);
    }
  }
  uint64_t fingerprint() const override { return 1; }

 private:
  static bool has_label(int64_t i) { return i % 5 != 4; }
  LabelKind label_;
};

data::TaskInfo answers_info(LabelKind label) {
  data::TaskInfo info{.name = "fake",
                      .fields = {.label = label},
                      .vocab_size = 100,
                      .num_classes = 3,
                      .class_names = {"a", "b", "c"},
                      .value_range = {0.0f, 5.0f},
                      .max_length = 64};
  if (label == LabelKind::kValue) info.class_names = {};
  return info;
}

/// What a model says of an example, output k; a negative zero among them.
float said_of(int64_t example, int64_t k) {
  return example == 0 ? -0.0f : std::sin(static_cast<float>(3 * example + k)) * 7.0f;
}

data::Answers gathered(LabelKind label, int ranks) {
  const data::TaskInfo info = answers_info(label);
  const FakeExamples examples(label);
  const int64_t outputs = num_answer_outputs(info);
  std::vector<data::Answers> of_ranks(static_cast<size_t>(ranks));
  comm::run_ranks(ranks, [&](comm::Communicator& communicator) {
    const data::EvalBatches batches(examples, info,
                                    {.seed = 1, .batch = kLeafSize, .micro_batch = kLeafSize});
    AnswerSheet sheet(info, kExamples);
    for (int pass = 0; pass < 2; ++pass) {  // the second is not added to the first
      sheet.clear();
      for (int64_t i = communicator.rank(); i < batches.num_leaves(); i += communicator.size()) {
        data::Leaf leaf;
        batches.load(i, leaf);
        std::vector<float> out;
        for (const data::Draw& draw : leaf.draws) {
          for (int64_t k = 0; k < outputs; ++k)
            out.push_back(draw.example < 0 ? 99.0f : said_of(draw.example, k));
        }
        sheet.add(leaf, out);
      }
      sheet.all_reduce(communicator);
    }
    of_ranks[static_cast<size_t>(communicator.rank())] = sheet.answers();
  });
  for (const data::Answers& answers : of_ranks) {
    EXPECT_EQ(std::memcmp(answers.outputs.data(), of_ranks[0].outputs.data(),
                          answers.outputs.size() * sizeof(float)),
              0);
  }
  return of_ranks[0];
}

TEST(AnswerSheet, ClassesComeInTheOrderOfExamples) {
  const data::Answers answers = gathered(LabelKind::kClass, 1);
  ASSERT_EQ(answers.size(), kExamples);
  ASSERT_EQ(answers.num_outputs, 3);
  for (int64_t i = 0; i < kExamples; ++i) {
    const float label = answers.labels[static_cast<size_t>(i)];
    if (i % 5 == 4) {
      EXPECT_TRUE(std::isnan(label));
    } else {
      EXPECT_EQ(label, static_cast<float>(i % 3));
    }
    for (int64_t k = 0; k < 3; ++k) EXPECT_EQ(answers.of(i)[static_cast<size_t>(k)], said_of(i, k));
  }
}

TEST(AnswerSheet, NumbersAreMovedIntoTheirRange) {
  const data::Answers answers = gathered(LabelKind::kValue, 1);
  int64_t low = 0, high = 0;
  for (int64_t i = 0; i < kExamples; ++i) {
    EXPECT_EQ(answers.of(i)[0], std::clamp(said_of(i, 0), 0.0f, 5.0f));
    low += answers.of(i)[0] == 0.0f;
    high += answers.of(i)[0] == 5.0f;
  }
  EXPECT_GT(low, 1);
  EXPECT_GT(high, 0);
}

TEST(AnswerSheet, AnyNumberOfRanksGivesTheSameBits) {
  for (const LabelKind label : {LabelKind::kClass, LabelKind::kValue}) {
    const data::Answers one = gathered(label, 1);
    for (const int ranks : {2, 3, 8}) {
      const data::Answers many = gathered(label, ranks);
      ASSERT_EQ(many.outputs.size(), one.outputs.size());
      EXPECT_EQ(
          std::memcmp(many.outputs.data(), one.outputs.data(), one.outputs.size() * sizeof(float)),
          0);
      for (size_t i = 0; i < one.labels.size(); ++i) {
        EXPECT_TRUE(many.labels[i] == one.labels[i] ||
                    (std::isnan(many.labels[i]) && std::isnan(one.labels[i])));
      }
    }
  }
}

}  // namespace
}  // namespace stipple::trainer
