// SPDX-License-Identifier: Apache-2.0
#include "data/intake.h"

#include <fmt/format.h>

namespace stipple::data {

std::vector<std::string> losses(const Intake& intake, std::string_view split) {
  std::vector<std::string> lines;
  if (intake.skipped_rows > 0) {
    lines.push_back(fmt::format("{}: {} bad row{} left out (data.skip_bad_rows), the first: {}",
                                split, intake.skipped_rows, intake.skipped_rows == 1 ? "" : "s",
                                intake.first_skipped));
  }
  if (intake.cut_examples > 0) {
    lines.push_back(fmt::format(
        "{}: {} of {} examples are longer than data.max_length and are cut: {:.2g} % of all tokens "
        "are lost",
        split, intake.cut_examples, intake.examples, 100 * intake.cut_share()));
  }
  for (const std::string& remark : intake.remarks)
    lines.push_back(fmt::format("{}: {}", split, remark));
  return lines;
}

}  // namespace stipple::data
