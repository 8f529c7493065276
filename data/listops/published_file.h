// SPDX-License-Identifier: Apache-2.0
// Reads one file in the published format, every row of it checked: the words, the brackets, and the
// label against the value of the expression. A row that is wrong in any of these would train the
// model on something else in silence.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/dataset.h"

namespace stipple::data::listops {

struct Rows {
  std::vector<uint8_t> tokens;         ///< of all rows, one after the other, each cut to max_length
  std::vector<int64_t> offsets = {0};  ///< row i is [offsets[i], offsets[i + 1])
  std::vector<uint8_t> labels;
  Intake intake;
};

/// Bad rows: DataError "path:line: what", or left out and counted where skip_bad_rows. A missing
/// header is always an error. UnreadableFile when the file cannot be opened.
Rows read_published_file(const std::string& path, int64_t max_length, bool skip_bad_rows);

}  // namespace stipple::data::listops
