// SPDX-License-Identifier: Apache-2.0
#include "data/predictions.h"

#include <fmt/format.h>

#include "core/error.h"

namespace stipple::data {

std::string predictions_text(const TaskInfo& info, const Answers& answers,
                             bool with_probabilities) {
  STIPPLE_CHECK(info.has_answers(), info.name, " tells no answers");
  const bool is_value = info.class_names.empty();
  std::string text = "index\tprediction";
  if (with_probabilities) {
    for (const std::string& name : info.class_names) text += "\tprobability_" + name;
  }
  text += '\n';
  for (int64_t i = 0; i < answers.size(); ++i) {
    const auto said = answers.of(i);
    text += fmt::format("{}\t", i);
    text += is_value ? fmt::format("{:.3f}", said[0])
                     : info.class_names[static_cast<size_t>(class_of(said))];
    if (with_probabilities && !is_value) {
      for (const double p : probabilities_of(said)) text += fmt::format("\t{:.6f}", p);
    }
    text += '\n';
  }
  return text;
}

}  // namespace stipple::data
