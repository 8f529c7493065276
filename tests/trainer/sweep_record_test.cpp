// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/sweep_record.h"

#include <gtest/gtest.h>

#include "tests/trainer/html_checks.h"

namespace stipple::trainer {
namespace {

Sweep example() {
  return {
      .metric = data::kAccuracy,
      .exact = {.predictor = "exact attention", .density = 0.05, .recall = 1, .metric = 0.75},
      .points = {{.predictor = "window", .setting = "", .window = 5, .density = 0.1, .recall = 0.2},
                 {.predictor = "cluster",
                  .setting = "clusters=8 top=1",
                  .window = 1,
                  .density = 0.1,
                  .recall = 0.6,
                  .precision = 0.5,
                  .exact = 0.25,
                  .dropped_mass = 0.125,
                  .loss = 1.5,
                  .metric = 0.5},
                 {.predictor = "quantize", .setting = "buckets=8", .density = 0.4, .recall = 0.7},
                 {.predictor = "cluster", .setting = "<4>", .density = 0.3, .recall = 0.9}}};
}

TEST(SweepRecord, TheFrontierIsWhatNothingBeatsInBoth) {
  const auto recall = [](const SweepPoint& p) { return p.recall; };
  const auto metric = [](const SweepPoint& p) { return p.metric; };
  const std::vector<SweepPoint> points = example().points;
  EXPECT_EQ(on_frontier(points, recall, /*falls=*/false),
            (std::vector<bool>{false, true, false, true}));
  // What is best by one measure need not be so by another, or where less is better.
  EXPECT_EQ(on_frontier(points, metric, /*falls=*/false),
            (std::vector<bool>{false, true, false, false}));
  EXPECT_EQ(on_frontier(points, metric, /*falls=*/true),
            (std::vector<bool>{true, false, false, false}));
  const std::vector<SweepPoint> twins = {{.density = 0.5, .recall = 0.5},
                                         {.density = 0.5, .recall = 0.5}};
  EXPECT_EQ(on_frontier(twins, recall, /*falls=*/false), (std::vector<bool>{true, true}));
}

TEST(SweepRecord, TheTableHasALineForEveryWay) {
  EXPECT_EQ(sweep_csv(example()),
            "predictor,setting,window,density,sparsity,recall,precision,exact,dropped_mass,loss,"
            "accuracy,frontier\n"
            "exact attention,,0,0.05,0.95,1,0,0,0,0,0.75,0\n"
            "window,,5,0.1,0.9,0.2,0,0,0,0,0,0\n"
            "cluster,clusters=8 top=1,1,0.1,0.9,0.6,0.5,0.25,0.125,1.5,0.5,1\n"
            "quantize,buckets=8,0,0.4,0.6,0.7,0,0,0,0,0,0\n"
            "cluster,<4>,0,0.3,0.7,0.9,0,0,0,0,0,1\n");
}

TEST(SweepRecord, ThePageShowsWhatItCostsToBeSparse) {
  const std::string page = sweep_page(example(), "runs/<exact>");
  for (const char* part : {"Recall", "Dropped mass", "Accuracy", "75", "exact attention",
                           "frontier", "clusters=8 top=1", "&lt;4&gt;", "runs/&lt;exact&gt;"})
    EXPECT_NE(page.find(part), std::string::npos) << part;
  expect_sound(page);
}

}  // namespace
}  // namespace stipple::trainer
