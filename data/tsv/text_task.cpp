// SPDX-License-Identifier: Apache-2.0
#include "data/tsv/text_task.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "core/error.h"
#include "data/shuffle.h"
#include "data/tsv/text_dataset.h"
#include "data/wordpiece/configured.h"

namespace stipple::data::tsv {
namespace {

/// BERT's models know two kinds of tokens, of the first and of the second text, whether or not a
/// task has a second one.
constexpr int64_t kSegments = 2;

/// Keeps the draw of what is held out apart from the order of any epoch.
constexpr uint64_t kHeldOutEpoch = ~uint64_t{0};

TaskInfo info_of(const DataConfig& config, const TextTaskOptions& options,
                 const wordpiece::Vocabulary& vocabulary) {
  const bool is_value = options.labels.names.empty();
  return {
      .name = options.name,
      .fields = {.label = is_value ? LabelKind::kValue : LabelKind::kClass, .segments = kSegments},
      .vocab_size = vocabulary.size(),
      .vocabulary = vocabulary.hash(),
      .num_classes = static_cast<int64_t>(options.labels.names.size()),
      .class_names = options.labels.names,
      .value_range = options.labels.range,
      .max_length = config.max_length,
      .metrics = options.metrics};
}

/// Leaves the rows that are held out for validation, or the others, in their order.
void keep_part(std::vector<Text>& rows, double fraction, uint64_t seed, bool held_out) {
  const auto n = static_cast<int64_t>(rows.size());
  const auto count = static_cast<int64_t>(std::llround(fraction * static_cast<double>(n)));
  STIPPLE_CHECK_AS(ConfigError, count >= 1 && count < n, "data.val_fraction: ", fraction, " of ", n,
                   " training examples leaves none for validation or for training");
  const Shuffle shuffle(static_cast<uint64_t>(n), seed, kHeldOutEpoch);
  std::vector<bool> is_held(rows.size());
  for (int64_t i = 0; i < count; ++i) is_held[shuffle(static_cast<uint64_t>(i))] = true;
  size_t kept = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (is_held[i] == held_out) rows[kept++] = rows[i];
  }
  rows.resize(kept);
}

/// The share of the most frequent label.
double majority_share(const Dataset& dataset) {
  std::map<int32_t, int64_t> counts;
  int64_t labels = 0, most = 0;
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < dataset.size(); ++i) {
    int32_t label = -1;
    ids.resize(static_cast<size_t>(dataset.length({.example = i}, 0)));
    dataset.get({.example = i}, 0, {.ids = ids, .labels = {&label, 1}});
    if (label < 0) continue;
    ++labels;
    most = std::max(most, ++counts[label]);
  }
  return labels == 0 ? 0 : static_cast<double>(most) / static_cast<double>(labels);
}

}  // namespace

TextTask::TextTask(const DataConfig& config, uint64_t seed, TextTaskOptions options)
    : config_(config),
      seed_(seed),
      options_(std::move(options)),
      tokenizer_(wordpiece::configured_tokenizer(config)),
      info_(info_of(config, options_, tokenizer_.vocabulary())) {}

BadRow TextTask::bad_row(Split split) const {
  if (!config_.skip_bad_rows) return BadRow::kError;
  return split == Split::kTest ? BadRow::kBlank : BadRow::kSkip;
}

std::unique_ptr<Dataset> TextTask::make(const Read& read) const {
  return std::make_unique<TextDataset>(read.texts.rows, tokenizer_,
                                       TextDatasetOptions{.is_pair = options_.is_pair,
                                                          .is_value = options_.labels.names.empty(),
                                                          .max_length = config_.max_length},
                                       read.remarks);
}

std::unique_ptr<Dataset> TextTask::open(Split split) const {
  const double fraction = config_.val_fraction;
  if (fraction == 0) return make(read(split));
  Read published = read(split == Split::kTest ? Split::kValidation : Split::kTrain);
  if (split != Split::kTest)
    keep_part(published.texts.rows, fraction, seed_, split == Split::kValidation);
  return make(published);
}

std::unique_ptr<Dataset> TextTask::open_input(const std::string& path) const {
  Layout layout{.path = path,
                .has_header = false,
                .num_columns = options_.is_pair ? 2 : 1,
                .first = {.number = 0}};
  if (options_.is_pair) layout.second = Column{.number = 1};
  return make({.texts = read_texts(layout, options_.labels), .remarks = {}});
}

std::vector<Rung> TextTask::ladder(const Dataset& dataset) const {
  const bool is_accuracy = !info_.metrics.empty() && info_.metrics.front().name == kAccuracy.name;
  if (is_accuracy) return {{"majority class", majority_share(dataset)}};
  return {{"one answer to all", 0.0}};
}

}  // namespace stipple::data::tsv
