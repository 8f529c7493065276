// SPDX-License-Identifier: Apache-2.0
// data.json of a run: what each split that training reads holds, and what was lost on the way in.
//   [{"split": "train", "examples": 96000, "tokens": 99395712, "cut_examples": 0, "cut_tokens": 0,
//     "skipped_rows": 0}, ...]
#pragma once

#include <string>
#include <vector>

#include "data/intake.h"

namespace stipple::trainer {

struct SplitSummary {
  std::string split;    ///< "train"
  data::Intake intake;  ///< without first_skipped, which the log tells
};

std::string data_summary_to_json(const std::vector<SplitSummary>&);

/// No file: empty. DataError when it does not hold what it should.
std::vector<SplitSummary> read_data_summary(const std::string& path);

/// The section of the report; empty for no splits that were read from files.
std::string data_table(const std::vector<SplitSummary>&);

}  // namespace stipple::trainer
