// SPDX-License-Identifier: Apache-2.0
#include "data/output_file.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "tests/data/scratch_folder.h"

namespace stipple::data {
namespace {

using test::read_file;
using test::ScratchFolder;
using test::write_file;

template <class Call>
std::string error_of(Call call) {
  try {
    call();
  } catch (const DataError& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

std::set<std::string> files_in(const std::string& folder) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    names.insert(entry.path().filename());
  return names;
}

/// Where the process stands as long as this lives.
class StandIn {
 public:
  explicit StandIn(const std::string& folder) { std::filesystem::current_path(folder); }
  ~StandIn() { std::filesystem::current_path(before_); }

 private:
  std::filesystem::path before_ = std::filesystem::current_path();
};

TEST(OutputFile, OfKilledWritersNothingStaysInNamedFoldersAndInThisOne) {
  const ScratchFolder folder;
  const StandIn here(folder.path());
  for (const std::string& path : {folder / "vocab.txt", std::string("vocab.txt")}) {
    write_file(folder / "vocab.txt.partial.1", "half a file");
    write_file(folder / "other.txt.partial.1", "of another file");
    OutputFile file(path);
    file.append(path);
    file.finish();
    file.publish();
    EXPECT_EQ(files_in(folder.path()), (std::set<std::string>{"other.txt.partial.1", "vocab.txt"}));
    EXPECT_EQ(read_file(folder / "vocab.txt"), path);
  }
}

TEST(OutputFile, FullDiskIsReportedWithPathAndReason) {
  const std::string message = error_of([] {
    OutputFile file("/dev/full", "/dev/full");
    file.append("some text");
    file.finish();
  });
  EXPECT_NE(message.find("/dev/full"), std::string::npos) << message;
  EXPECT_NE(message.find(std::strerror(ENOSPC)), std::string::npos) << message;
  EXPECT_TRUE(std::filesystem::exists("/dev/full"));
}

TEST(OutputFile, UnpublishedFileIsRemoved) {
  const ScratchFolder folder;
  {
    OutputFile file(folder / "temporary", folder / "final");
    file.append("text");
    file.finish();
    EXPECT_EQ(files_in(folder.path()), std::set<std::string>{"temporary"});
  }
  EXPECT_TRUE(files_in(folder.path()).empty());
}

TEST(OutputFile, ATemporaryFileHasOneWriter) {
  const ScratchFolder folder;
  OutputFile file(folder / "temporary", folder / "final");
  file.append("text");
  file.finish();
  const std::string message = error_of([&] { OutputFile(folder / "temporary", folder / "final"); });
  EXPECT_NE(message.find("another process"), std::string::npos) << message;
  file.publish();
  EXPECT_EQ(read_file(folder / "final"), "text");
}

TEST(OutputFile, LongTextsArriveWhole) {
  const ScratchFolder folder;
  const std::string chunk(300001, 'x');
  OutputFile file(folder / "temporary", folder / "final");
  for (int i = 0; i < 20; ++i) file.append(chunk);
  file.finish();
  file.publish();
  EXPECT_EQ(files_in(folder.path()), std::set<std::string>{"final"});
  EXPECT_EQ(std::filesystem::file_size(folder / "final"), 20u * 300001u);
}

}  // namespace
}  // namespace stipple::data
