// SPDX-License-Identifier: Apache-2.0
// A class or a number for each text, or pair of texts, of tsv files: what all such tasks do alike.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/task_config.h"
#include "data/tsv/read.h"
#include "data/wordpiece/wordpiece.h"

namespace stipple::data::tsv {

struct TextTaskOptions {
  std::string name;
  bool is_pair = false;
  Labels labels{};
  std::vector<Metric> metrics{};
};

/// ConfigError where there is no vocabulary or no room; DataError where that is none.
class TextTask : public Task {
 public:
  TextTask(const DataConfig&, uint64_t seed, TextTaskOptions);

  const TaskInfo& info() const final { return info_; }
  /// With data.val_fraction, validation is that share of the training file, drawn by the seed, and
  /// the test is the published validation file.
  std::unique_ptr<Dataset> open(Split) const final;
  /// A text a line, or two with a tab between them.
  std::unique_ptr<Dataset> open_input(const std::string& path) const final;
  std::vector<Rung> ladder(const Dataset&) const final;

 protected:
  struct Read {
    Texts texts;
    std::vector<std::string> remarks;
  };
  /// The published files of a split.
  virtual Read read(Split) const = 0;
  const Labels& labels() const { return options_.labels; }
  /// What to do about bad rows of a split: of a test, every row is an example.
  BadRow bad_row(Split) const;

 private:
  std::unique_ptr<Dataset> make(const Read&) const;

  DataConfig config_;
  uint64_t seed_;
  TextTaskOptions options_;
  wordpiece::WordPiece tokenizer_;
  TaskInfo info_;
};

}  // namespace stipple::data::tsv
