// SPDX-License-Identifier: Apache-2.0
// A run directory keeps what a run needs to know about itself, and says what it lacks.
#include "trainer/record/run_directory.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "core/log.h"
#include "trainer/checkpoint/durable_file.h"
#include "trainer/exit_code.h"
#include "trainer/record/run_record.h"

namespace stipple::trainer {
namespace {

namespace fs = std::filesystem;

class RunDirectoryTest : public testing::Test {
 protected:
  RunDirectoryTest() {
    std::string path = (fs::temp_directory_path() / "stipple-run-XXXXXX").string();
    EXPECT_NE(mkdtemp(path.data()), nullptr);
    root_ = path;
  }
  ~RunDirectoryTest() override {
    log::set_file("");
    fs::remove_all(root_);
  }

  std::string path(const std::string& name) const { return (root_ / name).string(); }
  static void write(const std::string& path, const std::string& text = "") {
    std::ofstream(path) << text;
  }

 private:
  fs::path root_;
};

using RunRecordTest = RunDirectoryTest;

TEST_F(RunRecordTest, ComesBackAsItWasWritten) {
  EXPECT_EQ(read_run_record(path("run.json")), RunRecord());
  for (const RunRecord& record :
       {RunRecord{}, RunRecord{.saved_step = 0},
        RunRecord{.saved_step = 400, .paths = {{"data.dir", "/lists \"a\""}}}}) {
    write_run_record(path("run.json"), record);
    EXPECT_EQ(read_run_record(path("run.json")), record);
  }
  for (const char* damaged : {"", "{}", "[1]", "{\"saved_step\": \"x\"}"}) {
    write(path("run.json"), damaged);
    EXPECT_THROW(read_run_record(path("run.json")), DataError) << damaged;
  }
}

TEST_F(RunDirectoryTest, OpensOnlyWhereNoSavedCheckpointIsMissed) {
  const RunDirectory run(path("run"));
  run.open(Resume::kAuto);
  run.open(Resume::kAuto);  // nothing was saved
  run.remember_checkpoint(400);
  EXPECT_THROW(run.open(Resume::kAuto), ConfigError);
  fs::create_directories(run.checkpoints() + "/.tmp-step-00000400.17");
  EXPECT_THROW(run.open(Resume::kAuto), ConfigError) << "half a checkpoint is none";
  fs::create_directories(run.checkpoints() + "/step-00000200");
  run.open(Resume::kAuto);
}

TEST_F(RunDirectoryTest, IsARunOnlyWithItsFiles) {
  const RunDirectory run(path(""));
  EXPECT_THROW(run.require_run(), ConfigError);
  write(run.config());
  EXPECT_THROW(run.require_run(), ConfigError);
  write(run.metrics());
  run.require_run();
}

TEST_F(RunDirectoryTest, KeepsTheConfigurationsThatAreNoLongerInForce) {
  const RunDirectory run(path(""));
  Config config;
  run.write_config(config, 0, "");
  EXPECT_TRUE(run.earlier_configs().empty());
  const auto resume_at = [&](int64_t step, double rate) {
    const std::string until_now = yaml_of(config);
    config.optimizer.learning_rate = rate;
    run.write_config(config, step, until_now);
  };
  const auto steps = [&] {
    std::vector<int64_t> list;
    for (const EarlierConfig& earlier : run.earlier_configs()) list.push_back(earlier.until_step);
    return list;
  };
  resume_at(10, 0.5);
  resume_at(20, 0.5);
  resume_at(30, 0.25);
  EXPECT_EQ(steps(), (std::vector<int64_t>{10, 30}));
  EXPECT_NE(run.earlier_configs()[1].yaml.find("learning_rate: 0.5"), std::string::npos);
  resume_at(20, 0.25);
  EXPECT_EQ(steps(), std::vector<int64_t>{10}) << "what is done again has one configuration";
  run.write_config(config, 0, "");
  EXPECT_TRUE(steps().empty());
}

TEST_F(RunDirectoryTest, FindsItsDataFromAnyFolder) {
  const RunDirectory run(path(""));
  Config config;
  config.data.dir = "stipple-lists";
  run.write_config(config, 0, "");
  EXPECT_EQ(run.load_config().data.dir, (fs::current_path() / "stipple-lists").string());
  write_run_record(run.record(), {.paths = {{"data.dir", path("gone")}}});
  EXPECT_EQ(run.load_config().data.dir, path("gone")) << "the error should name the full path";
  fs::remove(run.record());
  EXPECT_EQ(run.load_config().data.dir, "stipple-lists") << "written by an earlier version";
}

TEST_F(RunDirectoryTest, SweepsItsOwnTemporaryFilesOnly) {
  const RunDirectory run(path(""));
  for (const std::string& file : {run.metrics(), run.config(), path("notes")})
    write(file + kTemporarySuffix);
  run.sweep();
  EXPECT_FALSE(path_exists(run.metrics() + kTemporarySuffix));
  EXPECT_FALSE(path_exists(run.config() + kTemporarySuffix));
  EXPECT_TRUE(path_exists(path("notes") + kTemporarySuffix));
}

/// The exit code that an attempt ends with.
template <class Body>
int code_of(Body body) {
  try {
    body();
    return kDone;
  } catch (const std::exception& e) {
    return exit_code_of(e);
  }
}

TEST_F(RunDirectoryTest, WhatOnlyTheUserCanMendIsNotTriedAgain) {
  write(path("file"));
  EXPECT_EQ(code_of([&] { RunDirectory(path("file")).open(Resume::kAuto); }), kBadConfig);
  EXPECT_EQ(code_of([&] { RunDirectory(path("file/below")).open(Resume::kAuto); }), kBadConfig);
  fs::create_directories(path("run/lock"));
  EXPECT_EQ(code_of([&] { RunLock lock{RunDirectory(path("run"))}; }), kBadConfig);
  EXPECT_EQ(code_of([&] { AppendFile file(path("run")); }), kBadConfig);
  EXPECT_EQ(code_of([&] { AppendFile file(path("absent/file")); }), kFailed);
  EXPECT_EQ(code_of([] { throw std::bad_alloc(); }), kBadConfig);
  EXPECT_NE(message_of(std::bad_alloc()).find("train.micro_batch"), std::string::npos);
}

TEST(ExitCode, OfAFullDiskAsksForAnotherStart) {
  EXPECT_FALSE(is_permanent(ENOSPC));
  EXPECT_FALSE(is_permanent(EIO));
  for (const int code : {EACCES, EPERM, EROFS, ENOTDIR, EISDIR}) EXPECT_TRUE(is_permanent(code));
}

}  // namespace
}  // namespace stipple::trainer
