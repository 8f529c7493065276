// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/report.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <set>

#include "core/error.h"
#include "html_checks.h"
#include "trainer/checkpoint/durable_file.h"
#include "trainer/record/svg_chart.h"

namespace stipple::trainer {
namespace {

namespace fs = std::filesystem;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

TrainRecord train_at(int64_t step, size_t layers, size_t heads) {
  const double x = static_cast<double>(step);
  TrainRecord r{.step = step,
                .loss = 2 / x,
                .values = {{"accuracy", 1 - 1 / x}, {"density", 0.1}},
                .examples_per_s = 300,
                .tokens_per_s = 6000,
                .learning_rate = 1e-4,
                .grad_norm = 1,
                .seconds = {.step = 0.1, .data = 0.01, .forward = 0.03, .backward = 0.05}};
  for (size_t layer = 0; layer < layers; ++layer)
    r.layers.push_back({{"density", std::vector<double>(heads, 0.1 * static_cast<double>(layer))},
                        {"empty_rows", std::vector<double>(heads, 0.0)},
                        {"effective_cells", std::vector<double>(heads, 4.0)}});
  return r;
}

std::vector<ShownFigure> shown() {
  return {{.name = "accuracy", .title = "Accuracy", .is_share = true, .is_metric = true},
          {.name = "density", .title = "Density", .unit = "edges / pairs", .is_share = true},
          {.name = "empty_rows", .title = "Empty rows", .unit = "share", .is_share = true},
          {.name = "effective_cells", .title = "Effective cells", .unit = "cells"}};
}

ReportInput example(size_t layers = 2, size_t heads = 2) {
  ReportInput input{.run_name = "run",
                    .config_yaml = "seed: 1\nmodel:\n  width: 64\n",
                    .figures = shown(),
                    .ladder = {"accuracy", {{"Reference", 0.37}, {"Chance", 0.1}}}};
  for (int64_t step = 1; step <= 50; ++step)
    input.metrics.train.push_back(train_at(step, layers, heads));
  for (int64_t step : {25, 50})
    input.metrics.eval.push_back(
        {.step = step, .split = "val", .loss = 1, .values = {{"accuracy", 0.3}, {"density", 0.1}}});
  input.metrics.eval.push_back({.step = 50,
                                .split = "test",
                                .loss = 1,
                                .values = {{"accuracy", 0.3456}, {"density", 0.1}},
                                .seed_values = {{"accuracy", {0.34, 0.35}}},
                                .seed_spread = 0.01});
  return input;
}

TEST(Report, IsWellFormedAndSelfContained) {
  expect_sound(render_report(example()));
  expect_sound(render_report(example(12, 12)));
}

TEST(Report, TheMarkupCheckFindsFaults) {
  EXPECT_NE(markup_fault("<a><b></a>"), "");
  EXPECT_NE(markup_fault("<a>"), "");
  EXPECT_NE(markup_fault("</a>"), "");
  EXPECT_NE(markup_fault("<a>x & y</a>"), "");
  EXPECT_NE(markup_fault("<a>x < y</a>"), "");
  EXPECT_EQ(markup_fault("<a><b/>&amp;</a>"), "");
}

TEST(Report, ShowsTheTestResultAndItsPlaceOnTheLadder) {
  const std::string html = render_report(example());
  EXPECT_NE(html.find("<b>34.56%</b><span>test accuracy at step 50, 2 seeds, spread 1.00%"),
            std::string::npos);
  const size_t reference = html.find("<td>Reference</td>");
  const size_t own = html.find("<tr class=\"own\"><td>this run (test)</td>");
  const size_t chance = html.find("<td>Chance</td>");
  EXPECT_LT(reference, own);
  EXPECT_LT(own, chance);
  EXPECT_EQ(occurrences(html, "class=\"reference\""), 2u);
}

TEST(Figures, AreReadBackWithTheirBaselines) {
  const std::string path = (fs::temp_directory_path() / "stipple-figures.json").string();
  std::vector<ShownFigure> figures = shown();
  figures[1].baseline = "density_random";
  std::ofstream(path) << figures_to_json(figures);
  const std::vector<ShownFigure> read = read_figures(path);
  ASSERT_EQ(read.size(), figures.size());
  for (size_t i = 0; i < read.size(); ++i) EXPECT_EQ(read[i].baseline, figures[i].baseline);
  fs::remove(path);
}

TEST(Report, DrawsWhatOnlyEvaluationsTellOverItsBaseline) {
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
    const std::string html = render_report(input);
    expect_sound(html);
    EXPECT_GT(occurrences(html, "Modularity per layer and head"), 0u);
    // Behind the curves, or, where there are too many for curves, in a chart of its own.
    EXPECT_EQ(occurrences(html, "faint: of random graphs"), heads == 2 ? 1u : 0u);
    EXPECT_EQ(html.find("Chance per layer and head") == std::string::npos, heads == 2);
  }
}

TEST(Report, QuotesOnlyEvaluationsOfTheModelAsItWasTrained) {
  ReportInput input = example();
  EvalRecord other = input.metrics.eval.back();
  other.values = {{"accuracy", 0.9}};
  other.overrides = {"attention.sbm.delta=0.5", "device=cuda"};
  input.metrics.eval.push_back(other);
  const std::string html = render_report(input);
  expect_sound(html);
  EXPECT_NE(html.find("<b>34.56%</b><span>test accuracy"), std::string::npos);
  EXPECT_EQ(occurrences(html, "90.00%"), 1u);
  EXPECT_NE(html.find("<code>attention.sbm.delta=0.5 device=cuda</code>"), std::string::npos);
}

TEST(Report, ShowsWhatWasChangedOnTheWay) {
  ReportInput input = example();
  EXPECT_EQ(render_report(input).find("Changed on the way"), std::string::npos);
  input.config_yaml = "optimizer:\n  learning_rate: 0.1\n";
  input.earlier_configs = {{20, "optimizer:\n  learning_rate: 0.3\n"},
                           {30, "optimizer:\n  learning_rate: 0.2\n"}};
  const std::string html = render_report(input);
  expect_sound(html);
  const size_t first = html.find("<td>20</td><td>optimizer.learning_rate</td><td><code>0.3</code>");
  const size_t second =
      html.find("<td>30</td><td>optimizer.learning_rate</td><td><code>0.2</code>");
  EXPECT_LT(first, second);
  EXPECT_NE(second, std::string::npos);
}

TEST(Report, HasTheCharts) {
  const std::string html = render_report(example());
  for (const char* title :
       {"Loss", "Accuracy", "Learning rate", "Gradient norm", "Density per layer and head",
        "Effective cells per layer and head", "Empty rows per layer and head",
        "Where a step&#39;s time goes", "Throughput"})
    EXPECT_NE(html.find(std::string("<figcaption>") + title), std::string::npos) << title;
  // data, forward, sampling, backward, reduce, optimizer, other
  EXPECT_EQ(occurrences(html, "class=\"band"), 7u);
  EXPECT_NE(html.find("L1 H1"), std::string::npos);
  EXPECT_EQ(occurrences(html, "class=\"heat\""), 0u);
}

TEST(Report, ManyHeadsBecomeHeatMapsOfBoundedSize) {
  ReportInput input = example(12, 12);
  for (int64_t step = 51; step <= 1000; ++step)
    input.metrics.train.push_back(train_at(step, 12, 12));
  const std::string html = render_report(input);
  EXPECT_GT(occurrences(html, "class=\"heat\""), 3u * 144u);
  EXPECT_LT(html.size(), 3u << 20);
}

TEST(Report, EscapesEveryTextOfTheUser) {
  ReportInput input = example();
  input.run_name = "<script>alert('run')</script>";
  input.config_yaml = "task:\n  name: \"<b>&\"\n  <i>: 1\n";
  input.ladder = {"<s>", {{"<u>\"&", 0.5}}};
  input.metrics.eval[0].split = "<em>";
  const std::string html = render_report(input);
  expect_sound(html);
  EXPECT_NE(html.find("&lt;b&gt;&amp;"), std::string::npos);
  for (const char* tag : {"<i>", "<u>", "<em>", "<s>"})
    EXPECT_EQ(html.find(tag), std::string::npos);
}

TEST(Report, IsSoundWithoutDataWithOnePointAndWithNumbersThatAreNotFinite) {
  expect_sound(render_report({}));
  EXPECT_NE(render_report({}).find("no data yet"), std::string::npos);

  ReportInput one;
  one.metrics.train.push_back(train_at(1, 2, 2));
  expect_sound(render_report(one));
  EXPECT_NE(render_report(one).find("class=\"dot"), std::string::npos);

  for (double bad : {kNan, kInfinity, -kInfinity}) {
    ReportInput input = example(3, 4);
    for (TrainRecord& r : input.metrics.train)
      if (r.step % 3 == 0 || &r == &input.metrics.train.back()) {
        r.loss = r.grad_norm = r.seconds.forward = bad;
        for (auto& [name, value] : r.values) value = bad;
        r.layers[0][0].second[0] = bad;
      }
    for (EvalRecord& r : input.metrics.eval) r.values[0].second = r.loss = bad;
    input.ladder.rungs.push_back({"broken", bad});
    expect_sound(render_report(input));
  }
}

TEST(Report, HeadsThatAppearLaterLeaveGaps) {
  ReportInput input = example(0, 0);
  EXPECT_EQ(render_report(input).find("Density per layer"), std::string::npos);
  input.metrics.train.push_back(train_at(60, 1, 2));
  expect_sound(render_report(input));
  EXPECT_NE(render_report(input).find("L0 H1"), std::string::npos);
}

TEST(Report, OfAnEarlierVersionShowsItsNumbersByTheirNames) {
  ReportInput input = example();
  input.figures.clear();
  const std::string html = render_report(input);
  expect_sound(html);
  for (const char* title : {"accuracy", "density per layer and head", "empty_rows per layer"})
    EXPECT_NE(html.find(std::string("<figcaption>") + title), std::string::npos) << title;
}

TEST(Report, IsWrittenFromTheFilesOfARun) {
  std::string directory = (fs::temp_directory_path() / "stipple-report-XXXXXX").string();
  ASSERT_NE(mkdtemp(directory.data()), nullptr);
  EXPECT_THROW(write_report(directory + "/none"), ConfigError);
  EXPECT_THROW(write_report(directory), ConfigError) << "no run here";
  { MetricsWriter(directory + "/metrics.jsonl", -1).write(example().metrics.eval.back()); }
  std::ofstream(directory + "/config.yaml") << "model:\n  width: 64\n";
  std::ofstream(directory + "/figures.json") << figures_to_json(shown());
  std::ofstream(directory + "/ladder.json") << R"([{"name": "Best", "accuracy": 0.4}])";
  write_report(directory);
  const std::string html = read_text(directory + "/report.html", 1 << 20);
  for (const char* text : {"34.56%", "<td>width</td><td><code>64</code>", "<td>Best</td>"})
    EXPECT_NE(html.find(text), std::string::npos) << text;
  std::ofstream(directory + "/ladder.json") << R"([{"name": "Best"}])";
  EXPECT_THROW(write_report(directory), DataError);
  fs::remove(directory + "/ladder.json");
  std::ofstream(directory + "/report.html") << "of another program";
  EXPECT_THROW(write_report(directory), ConfigError);
  EXPECT_EQ(read_text(directory + "/report.html", 100), "of another program");
  fs::remove_all(directory);
}

TEST(SvgChart, TicksAreRoundAndInsideTheRange) {
  EXPECT_EQ(nice_ticks(0, 10, 5), (std::vector<double>{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(nice_ticks(-1, 1, 4), (std::vector<double>{-1, -0.5, 0, 0.5, 1}));
  EXPECT_EQ(nice_ticks(3, 3, 5), std::vector<double>{3});
  const auto small = nice_ticks(1.23e-5, 9.87e-5, 5);
  ASSERT_GE(small.size(), 3u);
  EXPECT_GE(small.front(), 1.23e-5);
  EXPECT_LE(small.back(), 9.87e-5 * (1 + 1e-9));
}

TEST(SvgChart, NumbersAreShort) {
  EXPECT_EQ(short_number(0), "0");
  EXPECT_EQ(short_number(0.0015), "0.0015");
  EXPECT_EQ(short_number(5000), "5000");
  EXPECT_EQ(short_number(12500), "12.5k");
  EXPECT_EQ(short_number(-3.2e6), "-3.2M");
  EXPECT_EQ(short_number(2e-5), "2e-05");
}

TEST(SvgChart, ThinningKeepsTheSpike) {
  Chart chart{.title = "spike", .series = {{.name = "s"}}};
  for (int i = 0; i < 50000; ++i)
    chart.series[0].points.push_back({static_cast<double>(i), i == 33333 ? 8.0 : 0.0});
  const std::string svg = line_chart(chart);
  EXPECT_LT(svg.size(), 60000u);
  // The spike reaches the top of the plot: the axis ends at its value.
  EXPECT_GE(occurrences(svg, " 12.0"), 1u);
}

TEST(SvgChart, StackedLayersAddUp) {
  Chart chart{.title = "stack", .series = {{.name = "a"}, {.name = "b"}}};
  for (int i = 0; i < 4; ++i) {
    chart.series[0].points.push_back({static_cast<double>(i), 3});
    chart.series[1].points.push_back({static_cast<double>(i), 5});
  }
  const std::string svg = stacked_area_chart(chart);
  expect_sound(svg);
  // 8 of an axis that ends at 8 is the top line of the plot, 12 px below the edge.
  EXPECT_NE(svg.find(">8</text>"), std::string::npos);
  EXPECT_NE(svg.find(" 12.0L"), std::string::npos);
}

}  // namespace
}  // namespace stipple::trainer
