// SPDX-License-Identifier: Apache-2.0
// Gathers a model's answers to the examples of a split from leaves and ranks.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "comm/communicator.h"
#include "data/answers.h"
#include "data/batch.h"
#include "data/dataset.h"

namespace stipple::trainer {

class AnswerSheet {
 public:
  /// Holds nothing where the task tells no answers (TaskInfo::has_answers).
  AnswerSheet(const data::TaskInfo&, int64_t examples);

  const data::TaskInfo& info() const { return info_; }
  void clear();
  /// outputs [B, num_answer_outputs()] of an evaluation leaf. Every example comes once, on one rank.
  void add(const data::Leaf&, std::span<const float> outputs);
  /// Then answers() are there, the same bits on every rank and for any number of them. Collective.
  void all_reduce(comm::Communicator&);

  /// Numbers within the task's range.
  const data::Answers& answers() const { return answers_; }

 private:
  const data::TaskInfo& info_;
  int64_t examples_;
  int64_t num_outputs_;
  std::vector<double> rows_;  // [examples, outputs and the label]; zeros: of another rank
  data::Answers answers_;
};

}  // namespace stipple::trainer
