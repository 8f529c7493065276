// SPDX-License-Identifier: Apache-2.0
// What a model said of every example of a split beside what is true, and measures of it that are no
// means over examples: F1, correlations of labels, numbers and ranks. All are computed in double,
// in the order of the examples, whichever ranks computed them: the same bits for any number of
// ranks (ADR 27).
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace stipple::data {

/// Numbers beyond it are moved to its ends.
struct ValueRange {
  float low = -std::numeric_limits<float>::infinity();
  float high = std::numeric_limits<float>::infinity();
};

struct Answers {
  int64_t num_outputs = 1;       ///< of an example: logits of classes; 1: a number
  std::vector<float> outputs{};  // [examples, num_outputs]
  std::vector<float> labels{};   // [examples]  a class or a number; NaN: not known

  int64_t size() const { return static_cast<int64_t>(labels.size()); }
  std::span<const float> of(int64_t example) const {
    const auto k = static_cast<size_t>(num_outputs);
    return std::span(outputs).subspan(static_cast<size_t>(example) * k, k);
  }
};

/// The largest of the logits, the first of equal ones.
int64_t class_of(std::span<const float> logits);
/// Of classes; sum to 1.
std::vector<double> probabilities_of(std::span<const float> logits);

// Examples without a label count nowhere. Where there is nothing to divide by - all examples called
// alike, no example of a class, equal numbers - a measure is 0, as in GLUE's own script.

/// 2 TP / (2 TP + FP + FN) of class 1.
double f1(const Answers&);
/// The mean of that over all classes.
double macro_f1(const Answers&);
/// Matthews correlation of any number of classes (R_K of Gorodkin, 2004): for two, (TP TN - FP FN) /
/// sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN)).
double matthews(const Answers&);
double pearson(const Answers&);
/// Pearson correlation of ranks; equal numbers share the mean of theirs.
double spearman(const Answers&);
double mean_squared_error(const Answers&);

/// What to be told of a model that says the same of every example: "all 408 examples are called
/// '1', ..."; empty where it does not, or of fewer than two examples. `class_names`: empty, where
/// outputs are numbers.
std::string sameness(const Answers&, const std::vector<std::string>& class_names);

}  // namespace stipple::data
