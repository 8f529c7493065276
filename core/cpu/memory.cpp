// SPDX-License-Identifier: Apache-2.0
#include "core/cpu/memory.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <sstream>

namespace stipple::cpu {
namespace {

std::optional<size_t> number_in(const std::string& path) {
  std::ifstream file(path);
  size_t value = 0;
  if (file >> value) return value;
  return std::nullopt;  // no file, or "max"
}

/// The number behind `name` in lines of "name value".
std::optional<size_t> field_in(const std::string& path, const std::string& name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string word;
    size_t value = 0;
    if (words >> word >> value && word == name) return value;
  }
  return std::nullopt;
}

/// The files of one version of control groups.
struct Version {
  const char* folder;
  const char* limit;
  const char* usage;
  const char* reclaimable;
};
constexpr Version kVersion1{"/sys/fs/cgroup/memory", "/memory.limit_in_bytes",
                            "/memory.usage_in_bytes", "total_inactive_file"};
constexpr Version kVersion2{"/sys/fs/cgroup", "/memory.max", "/memory.current", "inactive_file"};

size_t left_in_group(const std::string& group, const Version& version) {
  const std::optional<size_t> limit = number_in(group + version.limit);
  const std::optional<size_t> usage = number_in(group + version.usage);
  if (!limit || !usage) return kUnlimited;
  // Cached files count as used, but give way.
  const size_t cached = field_in(group + "/memory.stat", version.reclaimable).value_or(0);
  const size_t used = *usage - std::min(*usage, cached);
  return *limit - std::min(*limit, used);
}

/// The least that a group or one of those around it leaves.
size_t left_in_groups(const std::string& root, std::string path, const Version& version) {
  size_t left = kUnlimited;
  while (true) {
    left = std::min(left, left_in_group(root + version.folder + path, version));
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos) return left;
    path.resize(slash);
  }
}

/// Lines of /proc/self/cgroup: number:controllers:path, without controllers in version 2.
size_t left_in_own_groups(const std::string& root) {
  size_t left = kUnlimited;
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string path = line.substr(second + 1);
    if (controllers == ",,") left = std::min(left, left_in_groups(root, path, kVersion2));
    if (controllers.find(",memory,") != std::string::npos)
      left = std::min(left, left_in_groups(root, path, kVersion1));
  }
  return left;
}

}  // namespace

size_t available_memory(const std::string& root) {
  const std::optional<size_t> kilobytes = field_in(root + "/proc/meminfo", "MemAvailable:");
  const size_t machine = kilobytes ? *kilobytes * 1024 : kUnlimited;
  return std::min(machine, left_in_own_groups(root));
}

size_t available_address_space() {
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return kUnlimited;
  const size_t pages = number_in("/proc/self/statm").value_or(0);
  const size_t used = pages * static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return limit.rlim_cur - std::min<size_t>(limit.rlim_cur, used);
}

}  // namespace stipple::cpu
