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
  int64_t examples = 0;       ///< kept
  int64_t tokens = 0;         ///< of them, before any was cut
  int64_t cut_examples = 0;   ///< longer than max_length: they lost their end
  int64_t cut_tokens = 0;     ///< which went with those ends
  int64_t skipped_rows = 0;   ///< malformed, left out because data.skip_bad_rows says so
  std::string first_skipped;  ///< "file:line: what" of the first of them
  std::vector<std::string> remarks = {};  ///< what else somebody should know of the files

  /// Counts an example of `length` tokens. How many of them a model of max_length sees.
  int64_t keep(int64_t length, int64_t max_length) {
    const int64_t kept = length < max_length ? length : max_length;
    examples += 1;
    tokens += length;
    cut_examples += kept < length ? 1 : 0;
    cut_tokens += length - kept;
    return kept;
  }
  void skip(std::string what) {
    if (skipped_rows++ == 0) first_skipped = std::move(what);
  }
  /// Of the tokens; 0 where there are none.
  double cut_share() const {
    return tokens == 0 ? 0.0 : static_cast<double>(cut_tokens) / static_cast<double>(tokens);
  }
};

/// One sentence for each kind of loss and for each remark; none where nothing was lost. `split` is how it is called.
std::vector<std::string> losses(const Intake&, std::string_view split);

}  // namespace stipple::data
