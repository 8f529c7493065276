// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/report_charts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "report_example.h"

namespace stipple::trainer {
namespace {

using Titles = std::vector<std::string>;

Titles titles(const ReportInput& input) {
  Titles all;
  for (const ChartSection& section : report_charts(input)) {
    all.push_back("# " + section.title);
    for (const Chart& chart : section.charts) all.push_back(chart.title);
  }
  return all;
}

/// Empty where there is none of that title.
Chart chart_of(const ReportInput& input, const std::string& title) {
  for (const ChartSection& section : report_charts(input))
    for (const Chart& chart : section.charts)
      if (chart.title == title) return chart;
  return {};
}

Titles names(const std::vector<Series>& series) {
  Titles all;
  for (const Series& s : series) all.push_back(s.name);
  return all;
}

std::vector<double> values(const Series& series) {
  std::vector<double> all;
  for (const Point& p : series.points) all.push_back(p.y);
  return all;
}

TEST(ReportCharts, AreOfLearningAttentionAndSpeed) {
  EXPECT_EQ(titles(example()),
            (Titles{"# Learning", "Loss", "Accuracy", "Learning rate", "Gradient norm",
                    "# Attention", "Density", "Density per layer and head",
                    "Empty rows per layer and head", "Effective cells per layer and head",
                    "# Speed", "Where a step's time goes", "Throughput"}));
  EXPECT_EQ(titles({}), (Titles{"# Learning", "Loss", "Learning rate", "Gradient norm", "# Speed",
                                "Where a step's time goes", "Throughput"}));
}

TEST(ReportCharts, ProfilesAreOfTheNewestEvaluationOfEachSplit) {
  ReportInput input = example();
  input.figures.push_back({.name = "bits_by_place", .title = "Bits by place"});
  for (EvalRecord& r : input.metrics.eval) {
    const double bits = static_cast<double>(r.step);
    r.profiles = {{"bits_by_place", {bits, bits - 1, bits - 2}}};
  }
  const Chart chart = chart_of(input, "Bits by place");
  ASSERT_EQ(names(chart.series), (Titles{"val", "test"}));
  EXPECT_EQ(values(chart.series[0]), (std::vector<double>{50, 49, 48}));
  EXPECT_EQ(chart.series[0].points[2].x, 3);
  EXPECT_EQ(chart.x_label, "place in the block");
}

TEST(ReportCharts, TrainingIsSmoothOverItsFaintRecordsUnderTheEvaluations) {
  const ReportInput input = example();
  const Chart loss = chart_of(input, "Loss");
  EXPECT_EQ(names(loss.series), (Titles{"train (smoothed)", "train (smoothed)", "val", "test"}));
  const Series& raw = loss.series[0];
  const Series& smooth = loss.series[1];
  EXPECT_TRUE(raw.faint && !smooth.faint);
  ASSERT_EQ(raw.points.size(), input.metrics.train.size());
  for (size_t i = 0; i < raw.points.size(); ++i) {
    const TrainRecord& record = input.metrics.train[i];
    EXPECT_EQ(raw.points[i], (Point{static_cast<double>(record.step), record.loss}));
  }
  ReportInput noisy = input;
  for (int64_t step = 51; step <= 500; ++step)
    noisy.metrics.train.push_back(
        {.step = step, .loss = step % 2 == 0 ? 1.0 : 0.0, .seconds = {}, .layers = {}});
  const Series averaged = chart_of(noisy, "Loss").series[1];
  EXPECT_NEAR(averaged.points.back().y, 0.5, 0.1);
  EXPECT_EQ(loss.series[2].points, (std::vector<Point>{{25, 1}, {50, 1}}));
}

TEST(ReportCharts, EvaluationsOfTheModelAsItWasTrainedOnly) {
  ReportInput input = example();
  input.metrics.eval.push_back(input.metrics.eval.back());
  input.metrics.eval.back().overrides = {"device=cuda"};
  EXPECT_EQ(chart_of(input, "Accuracy").series.back().points, (std::vector<Point>{{50, 0.3456}}));
}

TEST(ReportCharts, AMetricStandsBesideTheLadderInItsUnit) {
  const Chart accuracy = chart_of(example(), "Accuracy");
  EXPECT_TRUE(accuracy.percent);
  ASSERT_EQ(accuracy.references.size(), 2u);
  EXPECT_EQ(accuracy.references[0].name, "Reference 37.00%");
  EXPECT_EQ(accuracy.references[0].y, 0.37);
  EXPECT_TRUE(chart_of(example(), "Loss").references.empty());
}

TEST(ReportCharts, FewHeadsAreCurvesManyAreHeatMaps) {
  const Chart few = chart_of(example(2, 2), "Density per layer and head");
  EXPECT_EQ(few.kind, ChartKind::kLines);
  EXPECT_EQ(names(few.series), (Titles{"L0 H0", "L0 H1", "L1 H0", "L1 H1"}));
  EXPECT_EQ(values(few.series[2]), std::vector<double>(50, 0.1));
  const Chart many = chart_of(example(12, 12), "Density per layer and head");
  EXPECT_EQ(many.kind, ChartKind::kHeatMap);
  EXPECT_EQ(many.series.size(), 144u);
}

TEST(ReportCharts, WhatOnlyEvaluationsTellStandsOverItsBaseline) {
  for (const size_t heads : {size_t{2}, size_t{12}}) {
    ReportInput input = example(2, heads);
    input.figures.push_back({.name = "modularity",
                             .title = "Modularity",
                             .unit = "of graphs",
                             .baseline = "modularity_random"});
    input.figures.push_back(
        {.name = "modularity_random", .title = "Chance", .unit = "of random graphs"});
    for (EvalRecord& r : input.metrics.eval)
      r.layers.assign(2, {{"modularity", std::vector<double>(heads, 0.5)},
                          {"modularity_random", std::vector<double>(heads, 0.01)}});
    const Chart chart = chart_of(input, "Modularity per layer and head");
    const Chart apart = chart_of(input, "Chance per layer and head");
    EXPECT_EQ(values(chart.series[0]), (std::vector<double>{0.5, 0.5})) << "25 and 50 of val";
    EXPECT_TRUE(chart.series[0].markers);
    if (heads == 2) {  // behind the curves
      ASSERT_EQ(chart.series.size(), 8u);
      EXPECT_TRUE(chart.series[4].faint);
      EXPECT_EQ(values(chart.series[4]), (std::vector<double>{0.01, 0.01}));
      EXPECT_EQ(chart.unit, "of graphs, faint: of random graphs");
      EXPECT_TRUE(apart.series.empty());
    } else {  // where there are too many for curves, in a chart of its own
      EXPECT_EQ(chart.series.size(), 24u);
      EXPECT_EQ(apart.series.size(), 24u);
    }
  }
}

TEST(ReportCharts, HeadsThatAppearLaterHaveGapsBefore) {
  ReportInput input = example(0, 0);
  EXPECT_TRUE(chart_of(input, "Density per layer and head").series.empty());
  input.metrics.train.push_back(train_at(60, 1, 2));
  const Chart chart = chart_of(input, "Density per layer and head");
  EXPECT_EQ(names(chart.series), (Titles{"L0 H0", "L0 H1"}));
  const std::vector<double> density = values(chart.series[1]);
  ASSERT_EQ(density.size(), 51u);
  EXPECT_TRUE(std::all_of(density.begin(), density.end() - 1, [](double v) { return v != v; }));
  EXPECT_EQ(density.back(), 0.0);
}

TEST(ReportCharts, PartsOfAStepAddUpToIt) {
  ReportInput input = example();
  input.metrics.train[0].seconds.forward = std::nan("");  // not measured: counts as other
  const Chart chart = chart_of(input, "Where a step's time goes");
  EXPECT_EQ(chart.kind, ChartKind::kStack);
  EXPECT_EQ(names(chart.series),
            (Titles{"data", "forward", "sampling", "backward", "reduce", "optimizer", "other"}));
  for (size_t i = 0; i < input.metrics.train.size(); ++i) {
    double sum = 0;
    for (const Series& s : chart.series) sum += s.points[i].y;
    EXPECT_NEAR(sum, 100, 1e-9) << "ms, step " << i + 1;
  }
}

TEST(ReportCharts, OfAnEarlierVersionShowNumbersByTheirNames) {
  ReportInput input = example();
  input.figures.clear();
  const Titles all = titles(input);
  for (const char* title :
       {"accuracy", "density per layer and head", "empty_rows per layer and head"})
    EXPECT_EQ(std::count(all.begin(), all.end(), title), 1) << title;
}

}  // namespace
}  // namespace stipple::trainer
