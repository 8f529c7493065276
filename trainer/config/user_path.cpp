// SPDX-License-Identifier: Apache-2.0
#include "trainer/config/user_path.h"

#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "core/error.h"

namespace stipple::trainer {
namespace {

std::string home_directory() {
  if (const char* home = std::getenv("HOME"); home != nullptr && *home != '\0') return home;
  const passwd* user = getpwuid(getuid());
  return user != nullptr ? user->pw_dir : "";
}

}  // namespace

std::string expand_path(const std::string& typed, std::string_view what) {
  STIPPLE_CHECK_AS(ConfigError, typed.find('$') == std::string::npos, what, ": '", typed,
                   "': variables are not expanded here; write the path in full, or ~ for your home "
                   "directory");
  if (!typed.starts_with('~')) return typed;
  STIPPLE_CHECK_AS(ConfigError, typed.size() == 1 || typed[1] == '/', what, ": '", typed,
                   "': of ~ only ~ and ~/... are understood; write the path in full, or ./", typed,
                   " for a folder of that name");
  const std::string home = home_directory();
  STIPPLE_CHECK_AS(ConfigError, !home.empty(), what, ": '", typed,
                   "': no home directory is known; write the path in full");
  return home + typed.substr(1);
}

std::string expand_paths(const std::string& typed, std::string_view what) {
  std::string paths;
  for (size_t begin = 0; begin <= typed.size();) {
    const size_t end = std::min(typed.find(',', begin), typed.size());
    const size_t first = std::min(typed.find_first_not_of(' ', begin), end);
    paths += (begin == 0 ? "" : ",") + expand_path(typed.substr(first, end - first), what);
    begin = end + 1;
  }
  return paths;
}

}  // namespace stipple::trainer
