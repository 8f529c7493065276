// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/named_file.h"

#include <unistd.h>

#include <filesystem>
#include <system_error>

#include "core/error.h"
#include "trainer/checkpoint/durable_file.h"

namespace stipple::trainer {
namespace {

namespace fs = std::filesystem;

/// What is there already and is no regular file: a device, a pipe.
bool is_special(const fs::file_status& there) {
  return fs::exists(there) && !fs::is_regular_file(there) && !fs::is_directory(there);
}

/// The file that a link stands for.
std::string behind_links(const std::string& path) {
  std::error_code code;
  const fs::path target = fs::canonical(path, code);
  return code ? path : target.string();
}

}  // namespace

void require_output(const std::string& path, std::string_view what) {
  std::error_code code;
  const fs::file_status there = fs::status(path, code);
  STIPPLE_CHECK_AS(ConfigError, !fs::is_directory(there), what, ": ", path,
                   " is a folder; name a file in it");
  const fs::path parent = fs::path(behind_links(path)).parent_path();
  const std::string folder = parent.empty() ? "." : parent.string();
  STIPPLE_CHECK_AS(ConfigError, fs::is_directory(fs::status(folder, code)), what,
                   ": there is no folder ", folder);
  const std::string& written = is_special(there) ? path : folder;
  STIPPLE_CHECK_AS(ConfigError, ::access(written.c_str(), W_OK) == 0, what, ": ", written,
                   " may not be written");
}

void write_output(const std::string& path, std::string_view bytes) {
  std::error_code code;
  if (!is_special(fs::status(path, code))) return replace_durably(behind_links(path), bytes);
  AppendFile(path).append(bytes);
}

}  // namespace stipple::trainer
