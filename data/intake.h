// SPDX-License-Identifier: Apache-2.0
// What happened to the examples of a split on their way in from the files, so that nothing is left
// out in silence. A task that reads files counts; the log, the report and `dry-run` tell.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace stipple::data {

struct Intake {
  int64_t skipped_rows = 0;   ///< malformed, left out because data.skip_bad_rows says so
  std::string first_skipped;  ///< "file:line: what" of the first of them

  void skip(std::string what) {
    if (skipped_rows++ == 0) first_skipped = std::move(what);
  }
};

/// One sentence for each kind of loss; none where nothing was lost. `split` is how it is called.
std::vector<std::string> losses(const Intake&, std::string_view split);

}  // namespace stipple::data
