// SPDX-License-Identifier: Apache-2.0
#include "core/cpu/memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace stipple::cpu {
namespace {

/// /proc and /sys of a machine as a test likes it.
class Memory : public ::testing::Test {
 protected:
  Memory() { write("/proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    4000 kB\n"); }
  ~Memory() override { std::filesystem::remove_all(root_); }

  void write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  size_t available() const { return available_memory(root_); }

 private:
  std::string root_ = ::testing::TempDir() + "machine" + std::to_string(getpid());
};

TEST_F(Memory, IsWhatTheKernelCallsAvailable) { EXPECT_EQ(available(), 4000u * 1024); }

TEST_F(Memory, IsNoMoreThanAGroupOfVersion2Leaves) {
  write("/proc/self/cgroup", "0::/slurm/job7\n");
  write("/sys/fs/cgroup/slurm/job7/memory.max", "1000000\n");
  write("/sys/fs/cgroup/slurm/job7/memory.current", "400000\n");
  EXPECT_EQ(available(), 600000u);
  write("/sys/fs/cgroup/slurm/job7/memory.stat", "anon 5\ninactive_file 100000\n");
  EXPECT_EQ(available(), 700000u) << "cached files give way";
}

TEST_F(Memory, IsNoMoreThanTheGroupsAroundLeave) {
  write("/proc/self/cgroup", "0::/slurm/job7\n");
  write("/sys/fs/cgroup/slurm/job7/memory.max", "max\n");
  write("/sys/fs/cgroup/slurm/job7/memory.current", "400000\n");
  write("/sys/fs/cgroup/slurm/memory.max", "500000\n");
  write("/sys/fs/cgroup/slurm/memory.current", "480000\n");
  EXPECT_EQ(available(), 20000u);
}

TEST_F(Memory, KnowsGroupsOfVersion1) {
  write("/proc/self/cgroup", "4:cpu,memory:/job\n0::/\n");
  write("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "300000\n");
  write("/sys/fs/cgroup/memory/job/memory.usage_in_bytes", "300001\n");
  EXPECT_EQ(available(), 0u);
  write("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(available(), 4000u * 1024);
}

TEST(AvailableMemory, OfThisMachineIsSomething) { EXPECT_GT(available_memory(), size_t{1} << 20); }

}  // namespace
}  // namespace stipple::cpu
