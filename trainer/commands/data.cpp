// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <filesystem>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/log.h"
#include "core/stopwatch.h"
#include "trainer/commands/commands.h"
#include "trainer/config/user_path.h"
#include "trainer/exit_code.h"

namespace stipple::trainer {
namespace {

using data::Split;

/// Before anything is made: what would be replaced, and what to do instead.
void require_free(const std::string& out, const data::listops::GeneratorOptions& options) {
  if (options.replace) return;
  std::vector<std::string> existing;
  std::vector<std::string_view> missing;
  for (Split split : options.splits) {
    const std::string path = data::listops::file_of(out, split);
    if (std::filesystem::exists(path)) {
      existing.push_back(path);
    } else {
      missing.push_back(data::split_name(split));
    }
  }
  if (existing.empty()) return;
  const std::string only =
      missing.empty()
          ? ""
          : fmt::format("--splits {} to make only what is missing, ", fmt::join(missing, ","));
  throw DataError(fmt::format("{} exist{} already; choose another --out, {}or --force to replace",
                              fmt::join(existing, ", "), existing.size() == 1 ? "s" : "", only));
}

/// "300 train, 50 val, 30 test"
std::string sizes_text(const data::listops::GeneratorOptions& options) {
  const int64_t sizes[] = {options.train, options.val, options.test};
  std::vector<std::string> parts;
  for (Split split : options.splits) {
    parts.push_back(
        fmt::format("{} {}", sizes[static_cast<size_t>(split)], data::split_name(split)));
  }
  return fmt::format("{}", fmt::join(parts, ", "));
}

}  // namespace

int data_listops(const std::string& out, const data::listops::GeneratorOptions& options) {
  STIPPLE_CHECK_AS(ConfigError, options.min_length + 1 < options.max_length, "--min-length ",
                   options.min_length, " and --max-length ", options.max_length,
                   " are exclusive and leave no length between them");
  const std::string folder = expand_path(out, "--out");
  require_free(folder, options);
  Stopwatch watch;
  data::listops::generate(folder, options, [](int64_t done, int64_t total) {
    log::progress(fmt::format("{} of {} expressions", done, total));
  });
  log::info(fmt::format("wrote {} expressions to {} in {:.1f} s", sizes_text(options), folder,
                        watch.lap()));
  return kDone;
}

}  // namespace stipple::trainer
