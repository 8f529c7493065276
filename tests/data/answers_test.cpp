// SPDX-License-Identifier: Apache-2.0
// Reference values are of scikit-learn 1.x (f1_score, matthews_corrcoef, mean_squared_error) and
// SciPy 1.x (pearsonr, spearmanr).
#include "data/answers.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace stipple::data {
namespace {

constexpr float kUnknown = std::numeric_limits<float>::quiet_NaN();

/// Logits whose largest is of the class that is said.
Answers classes(int64_t num_classes, const std::vector<float>& labels,
                const std::vector<int>& said) {
  Answers answers{.num_outputs = num_classes, .labels = labels};
  for (const int c : said) {
    for (int64_t i = 0; i < num_classes; ++i)
      answers.outputs.push_back(i == c ? 1.5f : -0.25f * static_cast<float>(i));
  }
  return answers;
}

Answers numbers(const std::vector<float>& labels, const std::vector<float>& said) {
  return {.num_outputs = 1, .outputs = said, .labels = labels};
}

const std::vector<float> kKnown = {3.0f, 0.25f, 5.0f, 2.0f, 3.5f, 4.5f, 2.0f, 2.0f, 0.25f, 5.0f};
const std::vector<float> kSaid = {2.5f, 0.0f, 4.75f, 3.0f, 3.0f, 5.0f, 1.25f, 3.0f, 0.5f, 4.0f};

TEST(Answers, MeasuresOfTwoClassesAreTheReference) {
  const Answers answers =
      classes(2, {1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 1}, {1, 0, 0, 1, 1, 0, 1, 0, 1, 0, 0, 1});
  EXPECT_DOUBLE_EQ(f1(answers), 0.7692307692307693);
  EXPECT_DOUBLE_EQ(macro_f1(answers), 0.7482517482517483);
  EXPECT_DOUBLE_EQ(matthews(answers), 0.50709255283711);
}

TEST(Answers, MeasuresOfThreeClassesAreTheReference) {
  const Answers answers = classes(3, {0, 1, 2, 2, 1, 0, 0, 2, 1, 1, 2, 0, 1, 2, 0},
                                  {0, 2, 2, 2, 1, 0, 1, 2, 1, 0, 2, 0, 1, 1, 0});
  EXPECT_DOUBLE_EQ(matthews(answers), 0.6);
  EXPECT_DOUBLE_EQ(macro_f1(answers), 0.7333333333333334);
  const Answers absent = classes(3, {0, 0, 1, 1, 0}, {0, 1, 1, 1, 0});
  EXPECT_DOUBLE_EQ(macro_f1(absent), 0.5333333333333333);
  EXPECT_DOUBLE_EQ(matthews(absent), 0.6666666666666666);
}

TEST(Answers, CorrelationsWithTiesAreTheReference) {
  const Answers answers = numbers(kKnown, kSaid);
  EXPECT_NEAR(pearson(answers), 0.91752843391596706, 1e-15);
  EXPECT_NEAR(spearman(answers), 0.86876696827055644, 1e-15);
  EXPECT_DOUBLE_EQ(mean_squared_error(answers), 0.45);
}

TEST(Answers, RanksDoNotSeeHowFarNumbersAreApart) {
  std::vector<float> stretched = kSaid;
  for (float& value : stretched) value = std::exp(3 * value);
  EXPECT_DOUBLE_EQ(spearman(numbers(kKnown, stretched)), spearman(numbers(kKnown, kSaid)));
  EXPECT_LT(pearson(numbers(kKnown, stretched)), 0.8);
}

TEST(Answers, ExamplesWithoutALabelCountNowhere) {
  std::vector<float> known = kKnown, said = kSaid;
  known.insert(known.begin() + 3, kUnknown);
  said.insert(said.begin() + 3, 99.0f);
  EXPECT_EQ(pearson(numbers(known, said)), pearson(numbers(kKnown, kSaid)));
  EXPECT_EQ(spearman(numbers(known, said)), spearman(numbers(kKnown, kSaid)));
  EXPECT_EQ(mean_squared_error(numbers(known, said)), mean_squared_error(numbers(kKnown, kSaid)));
  EXPECT_EQ(f1(classes(2, {1, kUnknown, 0}, {1, 1, 0})), 1.0);
  EXPECT_EQ(matthews(classes(2, {1, kUnknown, 0}, {1, 1, 0})), 1.0);
}

TEST(Answers, MeasuresAreZeroWhereThereIsNothingToDivideBy) {
  const Answers all_one = classes(2, {0, 1, 1, 0}, {1, 1, 1, 1});
  EXPECT_DOUBLE_EQ(f1(all_one), 0.6666666666666666);
  EXPECT_EQ(matthews(all_one), 0.0);
  EXPECT_EQ(f1(classes(2, {0, 1, 1, 0}, {0, 0, 0, 0})), 0.0);
  EXPECT_EQ(f1(classes(2, {0, 0}, {0, 0})), 0.0);
  EXPECT_EQ(matthews(classes(2, {0, 0, 0}, {0, 1, 0})), 0.0);
  // 0.1f has no mean of three that is itself in every order of sums.
  EXPECT_EQ(pearson(numbers({1, 2, 4}, {0.1f, 0.1f, 0.1f})), 0.0);
  EXPECT_EQ(spearman(numbers({1, 2, 4}, {0.1f, 0.1f, 0.1f})), 0.0);
  EXPECT_EQ(pearson(numbers({2, 2, 2}, {1, 2, 3})), 0.0);
  for (const auto measure : {&pearson, &spearman, &mean_squared_error})
    EXPECT_EQ(measure(numbers({}, {})), 0.0);
  for (const auto measure : {&f1, &macro_f1, &matthews})
    EXPECT_EQ(measure(classes(2, {}, {})), 0.0);
}

TEST(Answers, ANumberThatIsNoneIsNotCalledGood) {
  EXPECT_TRUE(std::isnan(pearson(numbers({1, 2, 3}, {1, kUnknown, 3}))));
  EXPECT_TRUE(std::isnan(mean_squared_error(numbers({1, 2, 3}, {1, kUnknown, 3}))));
  EXPECT_LT(spearman(numbers({1, 2, 3, 4}, {1, kUnknown, 3, 4})), 1.0);
}

TEST(Answers, OfEqualLogitsTheFirstIsTheClassAndProbabilitiesSumToOne) {
  const std::vector<float> logits = {-1.0f, 2.0f, 2.0f, 900.0f};
  EXPECT_EQ(class_of(std::span(logits).first(3)), 1);
  const std::vector<double> p = probabilities_of(std::span(logits).first(3));
  EXPECT_DOUBLE_EQ(p[1], 1 / (2 + std::exp(-3.0)));
  EXPECT_DOUBLE_EQ(p[0] + p[1] + p[2], 1.0);
  EXPECT_DOUBLE_EQ(probabilities_of(logits)[3], 1.0);
}

TEST(Answers, AModelThatSaysTheSameOfAllIsTold) {
  const std::vector<std::string> names = {"no", "yes"};
  EXPECT_EQ(sameness(classes(2, {0, 1, 1, 0, 1}, {1, 1, 1, 1, 1}), names),
            "the model calls all 5 examples 'yes', which is right of 60.0 %");
  EXPECT_EQ(sameness(classes(2, {kUnknown, kUnknown}, {0, 0}), names),
            "the model calls all 2 examples 'no'");
  EXPECT_EQ(sameness(classes(2, {0, 1}, {1, 0}), names), "");
  EXPECT_EQ(sameness(classes(2, {0}, {1}), names), "");
  EXPECT_EQ(sameness(numbers({1, 2, 3}, {2.5f, 2.5f, 2.5f}), {}),
            "the model says 2.500 of every one of 3 examples");
  EXPECT_EQ(sameness(numbers({1, 2, 3}, {2.5f, 2.5f, 2.0f}), {}), "");
}

}  // namespace
}  // namespace stipple::data
