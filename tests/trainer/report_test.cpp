// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/report.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>

#include "core/error.h"
#include "html_checks.h"
#include "report_example.h"
#include "trainer/checkpoint/durable_file.h"
#include "trainer/record/report_charts.h"
#include "trainer/record/svg_chart.h"

namespace stipple::trainer {
namespace {

namespace fs = std::filesystem;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

TEST(Report, IsWellFormedAndSelfContained) {
  expect_sound(render_report(example()));
  expect_sound(render_report(example(12, 12)));
}

TEST(Report, ShowsItsCharts) {
  for (const ReportInput& input : {example(), example(12, 12), ReportInput{}})
    EXPECT_NE(render_report(input).find(draw(report_charts(input))), std::string::npos);
}

TEST(Report, OfManyHeadsIsOfBoundedSize) {
  ReportInput input = example(12, 12);
  for (int64_t step = 51; step <= 1000; ++step)
    input.metrics.train.push_back(train_at(step, 12, 12));
  EXPECT_LT(render_report(input).size(), 3u << 20);
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
  const std::string text = text_of(render_report(example()));
  EXPECT_TRUE(contains(text, "34.56% test accuracy at step 50, 2 seeds, spread 1.00%"));
  EXPECT_TRUE(contains(text, "Reference 37.00% this run (test) 34.56% Chance 10.00%"));
}

TEST(Figures, AreReadBackWithTheirBaselines) {
  const std::string path = (fs::temp_directory_path() / "stipple-figures.json").string();
  std::vector<ShownFigure> figures = shown_figures();
  figures[1].baseline = "density_random";
  std::ofstream(path) << figures_to_json(figures);
  const std::vector<ShownFigure> read = read_figures(path);
  ASSERT_EQ(read.size(), figures.size());
  for (size_t i = 0; i < read.size(); ++i) EXPECT_EQ(read[i].baseline, figures[i].baseline);
  fs::remove(path);
}

TEST(Report, QuotesOnlyEvaluationsOfTheModelAsItWasTrained) {
  ReportInput input = example();
  EvalRecord other = input.metrics.eval.back();
  other.values = {{"accuracy", 0.9}};
  other.overrides = {"attention.sbm.delta=0.5", "device=cuda"};
  input.metrics.eval.push_back(other);
  const std::string html = render_report(input);
  expect_sound(html);
  const std::string text = text_of(html);
  EXPECT_TRUE(contains(text, "34.56% test accuracy"));
  EXPECT_EQ(occurrences(text, "90.00%"), 1u);
  EXPECT_TRUE(contains(text, "attention.sbm.delta=0.5 device=cuda"));
}

TEST(Report, ShowsWhatWasChangedOnTheWay) {
  ReportInput input = example();
  EXPECT_EQ(render_report(input).find("Changed on the way"), std::string::npos);
  input.config_yaml = "optimizer:\n  learning_rate: 0.1\n";
  input.earlier_configs = {{20, "optimizer:\n  learning_rate: 0.3\n"},
                           {30, "optimizer:\n  learning_rate: 0.2\n"}};
  const std::string html = render_report(input);
  expect_sound(html);
  EXPECT_TRUE(contains(text_of(html),
                       "20 optimizer.learning_rate 0.3 0.2 30 optimizer.learning_rate 0.2 0.1"));
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
  EXPECT_TRUE(contains(text_of(render_report({})), "no data yet"));

  ReportInput one;
  one.metrics.train.push_back(train_at(1, 2, 2));
  expect_sound(render_report(one));

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

TEST(Report, IsWrittenFromTheFilesOfARun) {
  std::string directory = (fs::temp_directory_path() / "stipple-report-XXXXXX").string();
  ASSERT_NE(mkdtemp(directory.data()), nullptr);
  EXPECT_THROW(write_report(directory + "/none"), ConfigError);
  EXPECT_THROW(write_report(directory), ConfigError) << "no run here";
  { MetricsWriter(directory + "/metrics.jsonl", -1).write(example().metrics.eval.back()); }
  std::ofstream(directory + "/config.yaml") << "model:\n  width: 64\n";
  std::ofstream(directory + "/figures.json") << figures_to_json(shown_figures());
  std::ofstream(directory + "/ladder.json") << R"([{"name": "Best", "accuracy": 0.4}])";
  write_report(directory);
  const std::string text = text_of(read_text(directory + "/report.html", 1 << 20));
  for (const char* part : {"34.56%", "width 64", "Best 40.00%"})
    EXPECT_TRUE(contains(text, part)) << part;
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
  const std::string svg = draw(chart);
  EXPECT_LT(svg.size(), 60000u);
  // The spike reaches the top of the plot: the axis ends at its value.
  EXPECT_GE(occurrences(svg, " 12.0"), 1u);
}

TEST(SvgChart, StackedLayersAddUp) {
  Chart chart{
      .kind = ChartKind::kStack, .title = "stack", .series = {{.name = "a"}, {.name = "b"}}};
  for (int i = 0; i < 4; ++i) {
    chart.series[0].points.push_back({static_cast<double>(i), 3});
    chart.series[1].points.push_back({static_cast<double>(i), 5});
  }
  const std::string svg = draw(chart);
  expect_sound(svg);
  // 8 of an axis that ends at 8 is the top line of the plot, 12 px below the edge.
  EXPECT_NE(svg.find(">8</text>"), std::string::npos);
  EXPECT_NE(svg.find(" 12.0L"), std::string::npos);
}

}  // namespace
}  // namespace stipple::trainer
