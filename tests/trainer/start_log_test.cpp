// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/start_log.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace stipple::trainer {
namespace {

class StartLog : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::remove(path_); }
  void TearDown() override { std::filesystem::remove(path_); }
  const std::string path_ =
      (std::filesystem::temp_directory_path() / "stipple-start-log.jsonl").string();
};

TEST_F(StartLog, ReadsBackWhatWasWritten) {
  EXPECT_TRUE(read_starts(path_).empty());
  Start first{.step = 0, .at_s = 1e9, .host = "node1", .ranks = 4, .job = "17"};
  Start second{.step = 20, .at_s = 2e9, .host = "node\"2\n", .ranks = 2};
  write_start(path_, first);
  first.end = {.step = 20, .at_s = 1.5e9, .exit_code = 75, .why = "as a signal asked"};
  write_end(path_, *first.end);
  write_start(path_, second);
  EXPECT_EQ(read_starts(path_), (std::vector{first, second}));
}

TEST_F(StartLog, ALineThatACrashCutOffIsLeftOutAndDoesNotHideTheNext) {
  const Start start{.step = 3, .at_s = 1, .host = "a", .ranks = 1};
  write_start(path_, start);
  std::ofstream(path_, std::ios::app) << R"({"kind":"end","step":)";
  write_start(path_, start);
  EXPECT_EQ(read_starts(path_), (std::vector{start, start}));
}

}  // namespace
}  // namespace stipple::trainer
