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
#include "core/range.h"
#include "data/intake.h"
#include "data/metric.h"
#include "data/picture.h"

namespace stipple::data {

enum class Split : uint8_t { kTrain, kValidation, kTest };
std::string_view split_name(Split);  ///< "train", "val", "test"
/// Those of the names, in the order of Split, each once.
std::vector<Split> splits_named(const std::vector<std::string>& names);

/// What a model of the task can write, token by token.
enum class Writes : uint8_t { kNothing, kText, kPicture };

struct TaskInfo {
  std::string name;
  LeafFields fields = {};
  int64_t vocab_size = 0;  ///< size of the embedding table
  /// What tells one vocabulary of words from another (wordpiece::Vocabulary::hash()); empty: tokens
  /// are none.
  std::string vocabulary = {};
  int64_t num_classes = 0;  ///< of labels that are classes
  /// What the classes are called, where a prediction is to be told in words.
  std::vector<std::string> class_names = {};
  ValueRange value_range = {};  ///< of labels that are numbers
  int64_t max_length =
      0;  ///< longest sequence an example may have after truncation; the model's padded length
  Writes writes = Writes::kNothing;
  std::vector<Metric> metrics = {};  ///< what it is judged by; ladders are in the first
  std::vector<Profile> profiles = {};

  /// Whether a model's answer to an example can be told: a class by its name, or a number.
  bool has_answers() const { return !class_names.empty() || fields.label == LabelKind::kValue; }
};

/// One showing of an example. What is random about it (which tokens are masked, ...) is a function
/// of the two, never of ranks or history. Evaluation shows everything in epoch 0.
struct Draw {
  int64_t example = 0;
  uint64_t epoch = 0;
  bool operator==(const Draw&) const = default;
};

/// Where one sequence of an example is to be written. What the task does not have is empty, and so
/// is the label of an example beside any but the first of its sequences.
struct ExampleSpans {
  std::span<int32_t> ids{};       ///< one per token
  std::span<int32_t> segments{};  ///< one per token
  std::span<int32_t> pieces{};    ///< one per token, of packed rows; and with it positions
  std::span<int32_t> positions{};
  std::span<int32_t> labels{};    ///< one, or one per token (is_per_token()); -1, as found: none
  std::span<float> values{};      ///< one (kValue); NaN, as found: none
  std::span<int32_t> relation{};  ///< one (LeafFields::has_relation); -1, as found: none
};

/// A fixed collection. All calls are const, thread-safe and O(1) apart from copying.
class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual int64_t size() const = 0;
  /// Tokens of a sequence, at most TaskInfo::max_length.
  virtual int64_t length(Draw, int64_t sequence) const = 0;
  /// How many labels of an example get() writes that count: the loss of a step is the mean over
  /// those of its global batch, which nobody has to load to know.
  virtual int64_t num_labels(Draw) const = 0;
  virtual void get(Draw, int64_t sequence, const ExampleSpans&) const = 0;
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
  /// Examples of a user's own, without labels, to be predicted. ConfigError of tasks that read no
  /// such; DataError as open().
  virtual std::unique_ptr<Dataset> open_input(const std::string& path) const;
  /// The files that open() reads; none where examples are made.
  virtual std::vector<std::string> files(Split) const { return {}; }
  /// Of a task that writes: the tokens that a model is given for a text to go on from, at least one
  /// (pictures begin without any text); and which may come next, after so many that it wrote.
  virtual std::vector<int32_t> tokens_of(std::string_view prompt) const;
  virtual Range next_tokens(int64_t written) const;
  /// What tokens say, the given ones among them.
  virtual std::string text_of(std::span<const int32_t> tokens) const;  // Writes::kText
  virtual Picture picture_of(std::span<const int32_t> tokens) const;   // Writes::kPicture
  /// How a value of this task's first metric is to be read, ascending, trivial predictors among
  /// them: {"majority class", 0.169}. Computed on the given data, so that it is the ladder of
  /// exactly these examples.
  virtual std::vector<Rung> ladder(const Dataset&) const { return {}; }
};

}  // namespace stipple::data
