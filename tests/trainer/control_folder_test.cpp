// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/control_folder.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/error.h"

namespace stipple::trainer {
namespace {

namespace fs = std::filesystem;

class ControlFolderTest : public testing::Test {
 protected:
  void SetUp() override { fs::remove_all(path_); }
  void TearDown() override { fs::remove_all(path_); }
  void write(const std::string& name, const std::string& text) {
    std::ofstream(path_ + "/" + name) << text;
  }
  /// What one look finds.
  ControlFolder looked(int64_t done = 10, int64_t steps = 100) {
    ControlFolder control(path_);
    control.look(done, steps);
    return control;
  }
  const std::string path_ = (fs::temp_directory_path() / "stipple-control").string();
};

TEST_F(ControlFolderTest, IsMadeAndAsksForNothing) {
  ControlFolder(path_).open();
  const ControlFolder control = looked();
  EXPECT_FALSE(control.wants_stop());
  EXPECT_FALSE(control.wants_save());
  EXPECT_FALSE(control.wants_steps());
}

TEST_F(ControlFolderTest, ASaveIsTakenOnce) {
  ControlFolder(path_).open();
  write("save", "");
  ControlFolder control = looked();
  EXPECT_TRUE(control.wants_save());
  EXPECT_FALSE(fs::exists(control.save_file()));
  control.saved();
  EXPECT_FALSE(control.wants_save());
}

TEST_F(ControlFolderTest, AStopStands) {
  ControlFolder(path_).open();
  write("stop", "");
  EXPECT_TRUE(looked().wants_stop());
  EXPECT_TRUE(looked().wants_stop());
  EXPECT_THROW(ControlFolder(path_).open(), ConfigError);
}

TEST_F(ControlFolderTest, ExtendIsANumberOfStepsBeyondThoseThatAreDone) {
  ControlFolder(path_).open();
  write("extend", " 200\n");
  EXPECT_EQ(looked().wants_steps(), 200);
  EXPECT_EQ(looked(10, 200).wants_steps(), std::nullopt) << "that many they are";
  EXPECT_EQ(looked(200, 300).wants_steps(), std::nullopt) << "they are done";
  EXPECT_EQ(ControlFolder(path_).accepted_steps(200, 200, 300), 200) << "when training begins";
  write("extend", "");
  EXPECT_EQ(looked().wants_steps(), std::nullopt);
  for (const char* text : {"many", "-5", "0", "1e6", "2000000000", "20 30"}) {
    write("extend", text);
    EXPECT_EQ(looked().wants_steps(), std::nullopt) << text;
    EXPECT_EQ(ControlFolder(path_).accepted_steps(0, 0, 100), std::nullopt) << text;
  }
}

TEST_F(ControlFolderTest, StepsThatTheRunCannotHaveAreNotAskedFor) {
  ControlFolder(path_).open();
  write("extend", "200");
  ControlFolder control(path_, [](int64_t steps, int64_t done) {
    STIPPLE_CHECK_AS(ConfigError, false, steps, " of which ", done);
  });
  testing::internal::CaptureStderr();
  EXPECT_EQ(control.accepted_steps(11, 10, 100), std::nullopt);
  EXPECT_EQ(control.accepted_steps(12, 10, 100), std::nullopt);
  const std::string told = testing::internal::GetCapturedStderr();
  const size_t first = told.find("/extend: 200 of which 10; the run goes on as it is");
  EXPECT_NE(first, std::string::npos) << told;
  EXPECT_EQ(told.find("200 of which", first + 20), std::string::npos) << "told twice: " << told;
}

TEST_F(ControlFolderTest, LooksOnceASecond) {
  ControlFolder(path_).open();
  ControlFolder control = looked();
  write("stop", "");
  control.look(10, 100);
  EXPECT_FALSE(control.wants_stop());
}

TEST_F(ControlFolderTest, OtherRanksAreAskedForNothing) {
  ControlFolder control("");
  control.look(10, 100);
  EXPECT_FALSE(control.wants_stop());
}

}  // namespace
}  // namespace stipple::trainer
