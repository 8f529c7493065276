// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/comparison.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "html_checks.h"
#include "trainer/checkpoint/durable_file.h"

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

std::string text_of_row(const std::string& html, const std::string& begin) {
  const size_t at = html.find(begin);
  return at == std::string::npos ? "" : html.substr(at, html.find("</tr>", at) - at);
}

TEST(Comparison, ShowsResultsDifferencesAndCurvesOfAllRuns) {
  const std::string html =
      render_comparison({run("sbm <1>", "seed: 1\nmodel:\n  width: 64\nrun:\n  dir: a\n", 0.91),
                         run("softmax", "seed: 1\nmodel:\n  width: 32\nrun:\n  dir: b\n", 0.87),
                         run("none", "seed: 1\nrun:\n  dir: c\n", 0.5)});
  expect_sound(html);
  EXPECT_EQ(text_of_row(html, "<tr><td>model.width"),
            "<tr><td>model.width</td><td><code>64</code></td><td><code>32</code></td>"
            "<td><code></code></td>");
  for (const char* same : {"<td>seed", "<td>run.dir"})
    EXPECT_EQ(html.find(same), std::string::npos);
  const std::string first = text_of_row(html, "sbm &lt;1&gt;</td>");
  EXPECT_NE(first.find("test at step 20"), std::string::npos) << first;
  EXPECT_NE(first.find("91.00%"), std::string::npos) << first;
  // Loss, accuracy and throughput in training, loss and accuracy in validation: a curve of each.
  for (const char* curve : {"curve s0", "curve s1", "curve s2"})
    EXPECT_GE(occurrences(html, curve), 5u) << curve;
}

TEST(Comparison, RunsWithoutAFigureHaveAnEmptyCellAndNoCurve) {
  ReportInput fresh{.run_name = "fresh", .config_yaml = "seed: 1\n"};
  const std::string html = render_comparison({run("old", "seed: 1\n", 0.9), fresh});
  expect_sound(html);
  EXPECT_NE(html.find("All keys are the same"), std::string::npos);
  EXPECT_EQ(html.find("curve s1"), std::string::npos);
  EXPECT_EQ(html.find("nan"), std::string::npos);
}

class ComparisonFile : public ::testing::Test {
 protected:
  void SetUp() override { fs::remove_all(folder_); }
  void TearDown() override { fs::remove_all(folder_); }

  std::string make_run(const std::string& name) {
    const std::string path = (folder_ / name).string();
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
