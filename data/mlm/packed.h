// SPDX-License-Identifier: Apache-2.0
// Several examples of one text share a row, to fill it: tokens of one do not see those of another, and
// positions begin anew with each (LeafFields::is_packed). What an example is, and which of its tokens
// are asked for, is what it is alone.
//
//   ids        [CLS] a a [SEP] [CLS] b [SEP]
//   pieces       0   0 0   0     1   1   1
//   positions    0   1 2   3     0   1   2
//
// Rows are made once: the longest example first, into the fullest row that has room (best fit).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "data/dataset.h"

namespace stipple::data::mlm {

/// Which examples share a row: those of row r are members[begins[r]] to members[begins[r + 1] - 1],
/// the longest first.
struct Rows {
  std::vector<int64_t> begins = {0};
  std::vector<int64_t> members;
};
/// O(examples row_length) at worst. Every length is at most row_length.
Rows best_fit(const std::vector<int32_t>& lengths, int64_t row_length);

class PackedDataset final : public Dataset {
 public:
  /// The lengths of `examples`, which have one sequence each, do not depend on the epoch. Memory: 8
  /// bytes an example and 8 a row; making it, 20 more.
  PackedDataset(std::unique_ptr<const Dataset> examples, int64_t row_length);

  int64_t size() const override { return static_cast<int64_t>(rows_.begins.size()) - 1; }
  int64_t length(Draw, int64_t sequence) const override;
  int64_t num_labels(Draw) const override;
  void get(Draw, int64_t sequence, const ExampleSpans&) const override;
  uint64_t fingerprint() const override;
  Intake intake() const override;

 private:
  std::span<const int64_t> members(int64_t row) const;

  std::unique_ptr<const Dataset> examples_;
  Rows rows_;
};

}  // namespace stipple::data::mlm
