// SPDX-License-Identifier: Apache-2.0
// Records of fine-tunings, and what is told of many.
#include "trainer/record/glue_results.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/json.h"

namespace stipple::trainer {
namespace {

using data::glue::TaskId;

GlueRun rte(int64_t seed, double validation, double accuracy) {
  return {.task = TaskId::kRte,
          .seed = seed,
          .steps = 100,
          .best_step = 50,
          .validation = validation,
          .measures = {{TaskId::kRte, "accuracy", accuracy}}};
}

TEST(GlueResults, RecordsComeBackWithTheSameBits) {
  GlueRun run = rte(3, 0.1 + 0.2, 1.0 / 3);
  run.alarms = {"the model calls all 277 examples 'entailment'"};
  const GlueRun back = glue_run_from_json(glue_run_to_json(run), "here");
  EXPECT_EQ(glue_run_to_json(back), glue_run_to_json(run));
  EXPECT_EQ(back.validation, run.validation);
  EXPECT_EQ(back.measures.front().value, run.measures.front().value);
  EXPECT_EQ(back.alarms, run.alarms);
}

TEST(GlueResults, WhatIsNoRecordIsNamed) {
  for (const char* text : {"", "{}", "{\"task\": \"nothing\"}"}) {
    try {
      glue_run_from_json(text, "runs/glue/rte-1/glue.json");
      FAIL() << text;
    } catch (const DataError& e) {
      EXPECT_NE(std::string(e.what()).find("runs/glue/rte-1/glue.json: "), std::string::npos);
    }
  }
}

TEST(GlueResults, TellMediansAndSpread) {
  std::vector<GlueRun> runs = {rte(1, 0.5, 0.62), rte(2, 0.7, 0.58), rte(3, 0.7, 0.66)};
  std::vector<GlueRow> rows = glue_rows(runs);
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].median, 0.62);
  EXPECT_EQ(rows[0].lowest, 0.58);
  EXPECT_EQ(rows[0].highest, 0.66);
  EXPECT_EQ(rows[0].seeds, 3);
  runs.push_back(rte(4, 0.1, 0.70));
  EXPECT_DOUBLE_EQ(glue_rows(runs)[0].median, 0.64);
  EXPECT_EQ(glue_csv(runs),
            "task,measure,median,lowest,highest,seeds\nrte,accuracy,0.64,0.58,0.7,4\n");
}

TEST(GlueResults, TheBestSeedIsTheFirstThatValidationPrefers) {
  const std::vector<GlueRun> runs = {rte(1, 0.5, 0.9), rte(2, 0.7, 0.1), rte(3, 0.7, 0.2)};
  EXPECT_EQ(best_glue_run(runs, TaskId::kRte)->seed, 2);
  EXPECT_EQ(best_glue_run(runs, TaskId::kMrpc), nullptr);
}

/// All nine tasks, every measure at `value`.
std::vector<GlueRun> all_at(double value) {
  std::vector<GlueRun> runs;
  for (const auto& task : data::glue::all_published()) {
    if (task.id == TaskId::kAx || task.id == TaskId::kMnliMm) continue;
    GlueRun& run = runs.emplace_back(GlueRun{.task = task.id, .seed = 1});
    for (const auto& metric : data::glue::metrics_of(task.id))
      run.measures.push_back({task.id, std::string(metric.name), value});
    if (task.id == TaskId::kMnli) run.measures.push_back({TaskId::kMnliMm, "accuracy", value});
  }
  return runs;
}

TEST(GlueResults, TheScoreIsOfNineTasksAndSaysSoWhereSomeLack) {
  std::vector<GlueRun> runs = all_at(0.5);
  runs.back().measures.front().value = 0.68;  // WNLI
  EXPECT_NE(glue_markdown(runs, "dev").find("the mean of nine tasks: 52.0; without WNLI: 50.0.\n"),
            std::string::npos)
      << glue_markdown(runs, "dev");
  EXPECT_NE(glue_markdown(runs, "dev").find("| wnli | accuracy | 68.0 | 68.0 | 68.0 | 1 |\n"),
            std::string::npos);
  EXPECT_NE(glue_markdown(runs, "dev").find("| stsb | mse | 0.5 | "), std::string::npos);
  EXPECT_DOUBLE_EQ(Json::parse(glue_json(runs, "dev")).at("score").get<double>(), 52);
  runs.erase(runs.begin());  // CoLA
  runs.front().alarms = {"all the same"};
  const std::string text = glue_markdown(runs, "dev");
  EXPECT_NE(text.find("The mean of 8 of nine tasks (sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli): "
                      "52.2; GLUE's score is of all.\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("Alarm: sst2, seed 1: all the same\n"), std::string::npos);
  EXPECT_TRUE(Json::parse(glue_json(runs, "dev")).at("score").is_null());
}

}  // namespace
}  // namespace stipple::trainer
