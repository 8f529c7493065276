// SPDX-License-Identifier: Apache-2.0
#include "trainer/checkpoint/new_folder.h"

#include <filesystem>

#include "core/error.h"
#include "trainer/checkpoint/durable_file.h"

namespace stipple::trainer {
namespace {

namespace fs = std::filesystem;

std::string without_slash(const std::string& folder) {
  fs::path path = fs::path(folder).lexically_normal();
  if (path.filename().empty()) path = path.parent_path();
  return path.string();
}

}  // namespace

void require_new_folder(const std::string& folder) {
  STIPPLE_CHECK_AS(ConfigError, !path_exists(without_slash(folder)), folder,
                   " exists already; choose another --out, or remove it");
}

void write_new_folder(const std::string& folder, FunctionRef<void(const std::string&)> write) {
  require_new_folder(folder);
  const std::string to = without_slash(folder);
  const std::string parent = fs::absolute(to).parent_path().string();
  create_directories(parent);
  const std::string temporary = to + kTemporarySuffix;
  remove_tree(temporary);
  create_directory(temporary);
  try {
    write(temporary);
    sync_directory(temporary);
    rename_or_exchange(temporary, to);
    sync_directory(parent);
  } catch (...) {
    remove_tree(temporary);
    throw;
  }
}

void copy_into(const std::string& folder, const FilesBeside& files) {
  constexpr int64_t kMostBytes = int64_t{1} << 28;
  for (const auto& [name, path] : files)
    write_durably((fs::path(folder) / name).string(), read_text(path, kMostBytes));
}

}  // namespace stipple::trainer
