// SPDX-License-Identifier: Apache-2.0
// Texts, one or two an example, as ids of a vocabulary in host memory, with a class or a number each.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/tsv/read.h"
#include "data/wordpiece/wordpiece.h"

namespace stipple::data::tsv {

struct TextDatasetOptions {
  bool is_pair = false;
  bool is_value = false;  ///< labels are numbers
  int64_t max_length = 128;
};

/// An example is [CLS] first [SEP], or [CLS] first [SEP] second [SEP] (data/wordpiece/sequence.h),
/// also where the second text is empty. Memory: 4 bytes a token. Building takes what the tokenizer
/// does.
class TextDataset final : public Dataset {
 public:
  TextDataset(std::span<const Text>, const wordpiece::WordPiece&, const TextDatasetOptions&,
              std::vector<std::string> remarks);

  int64_t size() const override { return static_cast<int64_t>(labels_.size()); }
  int64_t length(Draw, int64_t sequence) const override;
  int64_t num_labels(Draw) const override;
  void get(Draw, int64_t sequence, const ExampleSpans&) const override;
  uint64_t fingerprint() const override;
  Intake intake() const override { return intake_; }

 private:
  bool is_value_;
  std::vector<int32_t> ids_;        // of all examples, one after the other
  std::vector<int64_t> begins_{0};  // of examples among them, and the end
  std::vector<int32_t> firsts_;     // tokens of an example that are of its first text
  std::vector<float> labels_;       // NaN: none
  Intake intake_;
};

}  // namespace stipple::data::tsv
