// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/named_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "core/error.h"
#include "trainer/checkpoint/durable_file.h"

namespace stipple::trainer {
namespace {

namespace fs = std::filesystem;

class NamedFile : public ::testing::Test {
 protected:
  NamedFile() {
    fs::remove_all(folder_);
    fs::create_directories(folder_ / "sub");
  }
  ~NamedFile() override { fs::remove_all(folder_); }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  static std::string refusal(const std::string& path) {
    try {
      require_output(path, "--out");
      return "none";
    } catch (const ConfigError& error) {
      return error.what();
    }
  }

  fs::path folder_ = fs::path(::testing::TempDir()) / ("output_file" + std::to_string(getpid()));
};

TEST_F(NamedFile, IsRefusedWhereNoneCanBe) {
  EXPECT_EQ(refusal(path("new")), "none");
  EXPECT_EQ(refusal(path("sub")), "--out: " + path("sub") + " is a folder; name a file in it");
  EXPECT_EQ(refusal("/dev/null"), "none");
  EXPECT_EQ(refusal(path("nowhere/new")), "--out: there is no folder " + path("nowhere"));
  if (geteuid() == 0) return;  // whom no permission stops
  fs::permissions(folder_ / "sub", fs::perms::owner_read | fs::perms::owner_exec);
  EXPECT_EQ(refusal(path("sub/new")), "--out: " + path("sub") + " may not be written");
}

TEST_F(NamedFile, ReplacesAFileAlsoBehindALink) {
  write_output(path("file"), "first");
  fs::create_symlink("../file", folder_ / "sub/link");
  write_output(path("sub/link"), "second");
  EXPECT_EQ(read_text(path("file"), 100), "second");
  EXPECT_TRUE(fs::is_symlink(folder_ / "sub/link"));
  EXPECT_EQ(list_directory(folder_.string()), (std::vector<std::string>{"file", "sub"}));
}

TEST_F(NamedFile, IsWrittenToWhereItIsAPipeOrADevice) {
  ASSERT_EQ(mkfifo(path("pipe").c_str(), 0600), 0);
  const int reader = open(path("pipe").c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  ASSERT_GE(reader, 0);
  write_output(path("pipe"), "said");
  char said[8] = {};
  EXPECT_EQ(read(reader, said, sizeof said), 4);
  EXPECT_STREQ(said, "said");
  close(reader);
  EXPECT_TRUE(fs::is_fifo(folder_ / "pipe"));
}

}  // namespace
}  // namespace stipple::trainer
