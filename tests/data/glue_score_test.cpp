// SPDX-License-Identifier: Apache-2.0
// The score of GLUE, against what BERT's README gives for two of its models; recipes of fine-tuning.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>
#include <string>

#include "data/glue/recipe.h"
#include "data/glue/score.h"

namespace stipple::data::glue {
namespace {

using Results = std::map<std::pair<TaskId, std::string>, double>;

double score(const Results& results, std::span<const TaskId> tasks = kTrainedTasks) {
  return score_of(tasks, [&](TaskId task, std::string_view measure) {
    const auto found = results.find({task, std::string(measure)});
    return found == results.end() ? std::nan("") : found->second;
  });
}

/// github.com/google-research/bert, README, the test server's results.
const Results kTiny = {{{TaskId::kCola, "matthews"}, 0.0},  {{TaskId::kSst2, "accuracy"}, 83.2},
                       {{TaskId::kMrpc, "f1"}, 81.1},       {{TaskId::kMrpc, "accuracy"}, 71.1},
                       {{TaskId::kStsb, "pearson"}, 74.3},  {{TaskId::kStsb, "spearman"}, 73.6},
                       {{TaskId::kQqp, "f1"}, 62.2},        {{TaskId::kQqp, "accuracy"}, 83.4},
                       {{TaskId::kMnli, "accuracy"}, 70.2}, {{TaskId::kMnliMm, "accuracy"}, 70.3},
                       {{TaskId::kQnli, "accuracy"}, 81.5}, {{TaskId::kRte, "accuracy"}, 57.2},
                       {{TaskId::kWnli, "accuracy"}, 62.3}};
const Results kSmall = {{{TaskId::kCola, "matthews"}, 27.8}, {{TaskId::kSst2, "accuracy"}, 89.7},
                        {{TaskId::kMrpc, "f1"}, 83.4},       {{TaskId::kMrpc, "accuracy"}, 76.2},
                        {{TaskId::kStsb, "pearson"}, 78.8},  {{TaskId::kStsb, "spearman"}, 77.0},
                        {{TaskId::kQqp, "f1"}, 68.1},        {{TaskId::kQqp, "accuracy"}, 87.0},
                        {{TaskId::kMnli, "accuracy"}, 77.6}, {{TaskId::kMnliMm, "accuracy"}, 77.0},
                        {{TaskId::kQnli, "accuracy"}, 86.4}, {{TaskId::kRte, "accuracy"}, 61.8},
                        {{TaskId::kWnli, "accuracy"}, 62.3}};

TEST(GlueScore, IsThatOfTheTablesOfBert) {
  constexpr double kRounding = 0.1;  // half a unit of the score, and of what it is the mean of
  EXPECT_NEAR(score(kTiny), 64.2, kRounding);
  EXPECT_NEAR(score(kSmall), 71.2, kRounding);
}

TEST(GlueScore, IsOfAllItsTasksOrNone) {
  for (const auto& [key, value] : kTiny) {
    Results without = kTiny;
    without.erase(key);
    EXPECT_TRUE(std::isnan(score(without))) << key.second;
  }
  EXPECT_TRUE(std::isnan(score(kTiny, {})));
  const std::array one = {TaskId::kMnli};
  EXPECT_NEAR(score(kTiny, one), 70.25, 1e-9);
}

TEST(GlueScore, MeasuresAreAmongThoseOfTheTask) {
  for (const TaskId task : kTrainedTasks) {
    std::set<std::string_view> known;
    for (const Metric& metric : metrics_of(task)) known.insert(metric.name);
    for (const std::string_view name : scored_measures(task)) EXPECT_TRUE(known.contains(name));
  }
}

TEST(GlueRecipe, SaysForEachTaskWhatItsSourceSays) {
  const Recipe& mosaic = *recipe_named("mosaicbert");
  EXPECT_EQ(mosaic.of(TaskId::kMnli).batch, 48);
  EXPECT_EQ(mosaic.of(TaskId::kMnliMm).batch, 48);
  EXPECT_EQ(mosaic.of(TaskId::kMrpc).learning_rate, 8e-5);
  EXPECT_EQ(mosaic.of(TaskId::kQnli).epochs, 10);
  EXPECT_EQ(mosaic.of(TaskId::kQqp).weight_decay, 3e-6);
  EXPECT_EQ(mosaic.of(TaskId::kRte).learning_rate, 1e-5);
  EXPECT_EQ(recipe_named("nobody"), nullptr);
  std::set<std::string_view> names;
  for (const Recipe& recipe : all_recipes()) {
    EXPECT_TRUE(names.insert(recipe.name).second) << recipe.name;
    for (const TaskId task : kTrainedTasks) EXPECT_GT(recipe.of(task).epochs, 0) << recipe.name;
  }
}

}  // namespace
}  // namespace stipple::data::glue
