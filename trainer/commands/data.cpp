// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "core/error.h"
#include "core/log.h"
#include "core/stopwatch.h"
#include "trainer/commands/commands.h"
#include "trainer/config/user_path.h"
#include "trainer/exit_code.h"

namespace stipple::trainer {

int data_listops(const std::string& out, const data::listops::GeneratorOptions& options) {
  STIPPLE_CHECK_AS(ConfigError, options.min_length + 1 < options.max_length, "--min-length ",
                   options.min_length, " and --max-length ", options.max_length,
                   " are exclusive and leave no length between them");
  Stopwatch watch;
  const std::string folder = expand_path(out, "--out");
  data::listops::generate(folder, options, [](int64_t done, int64_t total) {
    log::progress(fmt::format("{} of {} expressions", done, total));
  });
  log::info(
      fmt::format("wrote {} training, {} validation and {} test expressions to {} in {:.1f} s",
                  options.train, options.val, options.test, folder, watch.lap()));
  return kDone;
}

}  // namespace stipple::trainer
