// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/comparison.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "html_checks.h"
#include "trainer/checkpoint/durable_file.h"
#include "trainer/record/svg_chart.h"

namespace stipple::trainer {
namespace {

namespace fs = std::filesystem;

ReportInput run(const std::string& name, const std::string& config, double accuracy) {
  ReportInput input{
      .run_name = name,
      .config_yaml = config,
      .figures = {{.name = "accuracy", .title = "Accuracy", .is_share = true, .is_metric = true}}};
  for (int64_t step = 1; step <= 20; ++step)
    input.metrics.train.push_back({.step = step,
                                   .loss = 1.0 / static_cast<double>(step),
                                   .values = {{"accuracy", accuracy}},
                                   .examples_per_s = 300,
                                   .seconds = {.step = 0.1}});
  for (const char* split : {"val", "test"})
    input.metrics.eval.push_back(
        {.step = 20, .split = split, .loss = 1, .values = {{"accuracy", accuracy}}});
  return input;
}

const Chart* chart_of(const std::vector<ChartSection>& sections, const std::string& title) {
  for (const ChartSection& section : sections)
    for (const Chart& chart : section.charts)
      if (chart.title == title) return &chart;
  return nullptr;
}

TEST(Comparison, ShowsResultsAndDifferences) {
  const std::string html =
      render_comparison({run("sbm <1>", "seed: 1\nmodel:\n  width: 64\nrun:\n  dir: a\n", 0.91),
                         run("softmax", "seed: 1\nmodel:\n  width: 32\nrun:\n  dir: b\n", 0.87),
                         run("none", "seed: 1\nrun:\n  dir: c\n", 0.5)});
  expect_sound(html);
  const std::string text = text_of(html);
  EXPECT_TRUE(contains(text, "sbm &lt;1&gt; test at step 20 91.00%"));
  const size_t differences = text.find("What differs");
  ASSERT_NE(differences, std::string::npos);
  EXPECT_TRUE(contains(text.substr(differences), "none model.width 64 32 Learning"))
      << "seed and run.dir are no differences";
}

TEST(Comparison, HasACurveOfEachRun) {
  const std::vector<ReportInput> runs{run("sbm", "", 0.9), run("none", "", 0.5)};
  const std::vector<ChartSection> sections = comparison_charts(runs);
  for (const char* title : {"Train loss", "Validation loss", "Train: Accuracy",
                            "Validation: Accuracy", "Learning rate", "Throughput"}) {
    const Chart* chart = chart_of(sections, title);
    ASSERT_NE(chart, nullptr) << title;
    ASSERT_EQ(chart->series.size(), 2u) << title;
    EXPECT_EQ(chart->series[0].name, "sbm");
    EXPECT_EQ(chart->series[1].name, "none");
  }
  const Chart& accuracy = *chart_of(sections, "Validation: Accuracy");
  EXPECT_TRUE(accuracy.percent);
  EXPECT_EQ(accuracy.series[1].points, (std::vector<Point>{{20, 0.5}}));
  EXPECT_NE(render_comparison(runs).find(draw(sections)), std::string::npos);
}

TEST(Comparison, RunsWithoutAFigureHaveAnEmptyCellAndNoCurve) {
  const ReportInput fresh{.run_name = "fresh", .config_yaml = "seed: 1\n"};
  const std::vector<ReportInput> runs{run("old", "seed: 1\n", 0.9), fresh};
  const std::string html = render_comparison(runs);
  expect_sound(html);
  EXPECT_TRUE(contains(html, "All keys are the same"));
  EXPECT_FALSE(contains(html, "nan"));
  for (const ChartSection& section : comparison_charts(runs))
    for (const Chart& chart : section.charts) {
      ASSERT_EQ(chart.series.size(), 1u) << chart.title;
      EXPECT_EQ(chart.series[0].name, "old");
    }
}

class ComparisonFile : public ::testing::Test {
 protected:
  void SetUp() override { fs::remove_all(folder_); }
  void TearDown() override { fs::remove_all(folder_); }

  std::string make_run(const std::string& name) {
    std::string path = (folder_ / name).string();
    fs::create_directories(path);
    std::ofstream(path + "/config.yaml") << "seed: 1\n";
    std::ofstream(path + "/metrics.jsonl") << "";
    return path;
  }

  fs::path folder_ = fs::path(::testing::TempDir()) / "comparison_test";
};

TEST_F(ComparisonFile, NamesRunsByTheirFoldersOrByTheirPaths) {
  const std::string a = make_run("a/run"), b = make_run("b/run"), c = make_run("other");
  const std::string page = (folder_ / "page.html").string();
  write_comparison({a, b, c}, page);
  write_comparison({a, b, c}, page);  // ours: replaced
  const std::string html = read_text(page, 1 << 20);
  for (const std::string& name : {a, b, std::string("other")})
    EXPECT_NE(html.find("</i> " + name + "</td>"), std::string::npos) << name;
}

TEST_F(ComparisonFile, ReplacesNothingForeignAndWantsRuns) {
  const std::string a = make_run("a"), b = make_run("b");
  const std::string page = (folder_ / "page.html").string();
  std::ofstream(page) << "my own";
  EXPECT_THROW(write_comparison({a, b}, page), ConfigError);
  EXPECT_EQ(read_text(page, 100), "my own");
  const std::string fresh = (folder_ / "fresh.html").string();
  EXPECT_THROW(write_comparison({a, folder_.string()}, fresh), ConfigError);
  EXPECT_THROW(write_comparison(std::vector<std::string>(kMaxComparedRuns + 1, a), fresh),
               ConfigError);
  EXPECT_FALSE(fs::exists(fresh));
}

}  // namespace
}  // namespace stipple::trainer
