// SPDX-License-Identifier: Apache-2.0
// What a task is judged by: formulas over sums that the model's head tells, or over its answers to
// all examples. Ratios are taken of sums, never averaged.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/function_ref.h"
#include "data/answers.h"

namespace stipple::data {

/// The sum over all examples of what the head declares under this name (model/heads.h).
using Sums = FunctionRef<double(std::string_view)>;

struct Metric {
  std::string_view name;  ///< the key in metrics.jsonl
  std::string_view title;
  bool is_share = false;  ///< between 0 and 1, shown in percent
  bool less_is_better = false;
  // One of the two.
  double (*of)(Sums) = nullptr;
  double (*of_answers)(const Answers&) = nullptr;  ///< of whole splits: evaluation alone tells it
};

/// Labels that the model's first choice gets right: "correct" / "count".
extern const Metric kAccuracy;

/// Pairs of texts whose relation it tells.
extern const Metric kRelationAccuracy;

/// Of each token, a byte or a value of a picture, log2 of 1 / the probability that the model gave it; and the
/// number of equally likely tokens that would have been as hard to tell.
extern const Metric kBitsPerByte;
extern const Metric kBitsPerDimension;
extern const Metric kPerplexity;

/// Of answers (data/answers.h).
extern const Metric kF1, kMacroF1, kMatthews, kPearson, kSpearman, kMeanSquaredError;

/// A measure by where labels stand: over / under, of evaluations, value by value, both summed over
/// all examples.
struct Profile {
  std::string_view name;  ///< the key in metrics.jsonl
  std::string_view title, unit;
  std::string_view over, under;  ///< what the head declares, of as many values
  double scale = 1;              ///< of the ratio
};

/// By eighths of blocks of attention.combiner.block tokens: where attention is cut into such blocks,
/// the first tokens of one see little directly.
extern const Profile kBitsPerByteByPlace;
extern const Profile kBitsPerDimensionByPlace;

/// A result to compare with, in the task's first metric.
struct Rung {
  std::string name;
  double value = 0;
};

/// 0.331 of a share: "33.1 %", else "0.331".
std::string metric_text(double value, bool is_share, int decimals = 1);

/// "41.2 %, 5.0 points above 'root operator' (36.2 %), 18.6 points below 'depth 1' (59.8 %)".
std::string place_on_ladder(double value, bool is_share, const std::vector<Rung>& ascending);

}  // namespace stipple::data
