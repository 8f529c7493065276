// SPDX-License-Identifier: Apache-2.0
// Examples with random access, and what a task says about them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/leaf.h"
#include "data/intake.h"
#include "data/metric.h"

namespace stipple::data {

enum class Split : uint8_t { kTrain, kValidation, kTest };
std::string_view split_name(Split);  ///< "train", "val", "test"
/// Those of the names, in the order of Split, each once.
std::vector<Split> splits_named(const std::vector<std::string>& names);

struct TaskInfo {
  std::string name;
  LeafFields fields = {};
  int64_t vocab_size = 0;  ///< size of the embedding table
  int64_t num_classes = 0;
  int64_t max_length =
      0;  ///< longest sequence an example may have after truncation; the model's padded length
  std::vector<Metric> metrics = {};  ///< what it is judged by; ladders are in the first
};

/// A fixed collection. All calls are const, thread-safe and O(1) apart from copying.
class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual int64_t size() const = 0;
  virtual int64_t length(
      int64_t i) const = 0;  ///< tokens of example i, at most TaskInfo::max_length
  /// Writes length(i) ids; labels: one, or length(i) of them (kTokenClass).
  virtual void get(int64_t i, std::span<int32_t> ids, std::span<int32_t> labels) const = 0;
  /// A hash of the content, stored in checkpoints: resuming on other data is refused.
  virtual uint64_t fingerprint() const = 0;
  /// What was read and what was lost on the way; zeros where examples are made, not read.
  virtual Intake intake() const { return {}; }
};

/// A benchmark: knows its files, ids and classes.
class Task {
 public:
  virtual ~Task() = default;
  virtual const TaskInfo& info() const = 0;
  /// DataError when files are missing or malformed: names file, line, and the command that makes
  /// them.
  virtual std::unique_ptr<Dataset> open(Split) const = 0;
  /// The files that open() reads; none where examples are made.
  virtual std::vector<std::string> files(Split) const { return {}; }
  /// How a value of this task's first metric is to be read, ascending, trivial predictors among
  /// them: {"majority class", 0.169}. Computed on the given data, so that it is the ladder of exactly these examples.
  virtual std::vector<Rung> ladder(const Dataset&) const { return {}; }
};

}  // namespace stipple::data
