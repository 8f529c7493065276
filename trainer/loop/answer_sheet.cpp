// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/answer_sheet.h"

#include <algorithm>
#include <limits>

#include "core/error.h"
#include "trainer/loop/replica.h"

namespace stipple::trainer {
namespace {

/// Of the leaf's example `place`; NaN: none.
float label_at(const data::Leaf& leaf, size_t place) {
  if (leaf.sizes.fields.label == LabelKind::kValue) return leaf.values[place];
  const int32_t label = leaf.labels[place];
  return label < 0 ? std::numeric_limits<float>::quiet_NaN() : static_cast<float>(label);
}

}  // namespace

AnswerSheet::AnswerSheet(const data::TaskInfo& info, int64_t examples)
    : info_(info), examples_(examples), num_outputs_(num_answer_outputs(info)) {
  if (num_outputs_ == 0) return;
  rows_.resize(static_cast<size_t>(examples * (num_outputs_ + 1)));
  answers_.num_outputs = num_outputs_;
}

void AnswerSheet::clear() { std::fill(rows_.begin(), rows_.end(), 0.0); }

void AnswerSheet::add(const data::Leaf& leaf, std::span<const float> outputs) {
  const auto k = static_cast<size_t>(num_outputs_);
  STIPPLE_CHECK(k > 0 && outputs.size() == leaf.draws.size() * k, outputs.size(), " outputs of ",
                leaf.draws.size(), " examples");
  const bool is_value = leaf.sizes.fields.label == LabelKind::kValue;
  for (size_t place = 0; place < leaf.draws.size(); ++place) {
    const int64_t example = leaf.draws[place].example;
    if (example < 0) continue;
    double* row = rows_.data() + static_cast<size_t>(example) * (k + 1);
    for (size_t i = 0; i < k; ++i) {
      const float output = outputs[place * k + i];
      const float kept =
          is_value ? std::clamp(output, info_.value_range.low, info_.value_range.high) : output;
      row[i] = static_cast<double>(kept);
    }
    row[k] = static_cast<double>(label_at(leaf, place));
  }
}

void AnswerSheet::all_reduce(comm::Communicator& communicator) {
  if (num_outputs_ == 0) return;
  // Each row is of one rank, and zeros on the others, so the transport's order cannot change its
  // bits.
  communicator.all_reduce(std::span<double>(rows_), comm::Reduction::kSum);
  const auto k = static_cast<size_t>(num_outputs_);
  answers_.outputs.clear();
  answers_.labels.clear();
  for (size_t row = 0; row < static_cast<size_t>(examples_); ++row) {
    // A sum with zeros has no -0; with one rank there is no sum.
    for (size_t i = 0; i < k; ++i)
      answers_.outputs.push_back(static_cast<float>(rows_[row * (k + 1) + i] + 0.0));
    answers_.labels.push_back(static_cast<float>(rows_[row * (k + 1) + k]));
  }
}

}  // namespace stipple::trainer
