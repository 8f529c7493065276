// SPDX-License-Identifier: Apache-2.0
// Answers as a tsv file, a line an example.
#pragma once

#include <string>

#include "data/answers.h"
#include "data/dataset.h"

namespace stipple::data {

/// The file that GLUE's leaderboard takes: a header "index<TAB>prediction", then a row for each
/// example, in order, from 0: the name of a class, or a number with three decimals. With
/// probabilities, as many columns more as there are classes, called "probability_NAME", six decimals;
/// of numbers there are none.
std::string predictions_text(const TaskInfo&, const Answers&, bool with_probabilities);

}  // namespace stipple::data
