// SPDX-License-Identifier: Apache-2.0
#include "data/listops.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <functional>
#include <numeric>

#include "core/error.h"
#include "data/listops/evaluator.h"
#include "data/listops/published_file.h"
#include "data/mapped_file.h"
#include "data/tasks/tasks.h"

namespace stipple::data {
namespace {

constexpr int kDeepestRung = 5;

class ListopsDataset final : public Dataset {
 public:
  explicit ListopsDataset(listops::Rows rows) : rows_(std::move(rows)) {
    uint64_t h = XXH3_64bits(rows_.tokens.data(), rows_.tokens.size());
    h = XXH3_64bits_withSeed(rows_.offsets.data(), rows_.offsets.size() * sizeof(int64_t), h);
    fingerprint_ = XXH3_64bits_withSeed(rows_.labels.data(), rows_.labels.size(), h);
  }

  int64_t size() const override { return static_cast<int64_t>(rows_.labels.size()); }

  int64_t length(Draw draw, int64_t) const override {
    const auto i = static_cast<size_t>(draw.example);
    return rows_.offsets[i + 1] - rows_.offsets[i];
  }

  int64_t num_labels(Draw) const override { return 1; }

  void get(Draw draw, int64_t, const ExampleSpans& to) const override {
    const int64_t i = draw.example;
    STIPPLE_CHECK(i >= 0 && i < size() && static_cast<int64_t>(to.ids.size()) >= length(draw, 0) &&
                      !to.labels.empty(),
                  "listops: no room for example ", i, " of ", size());
    const auto begin = rows_.tokens.begin() + rows_.offsets[static_cast<size_t>(i)];
    std::copy(begin, begin + length(draw, 0), to.ids.begin());
    to.labels[0] = rows_.labels[static_cast<size_t>(i)];
  }

  uint64_t fingerprint() const override { return fingerprint_; }
  Intake intake() const override { return rows_.intake; }

 private:
  listops::Rows rows_;
  uint64_t fingerprint_ = 0;
};

/// A cut expression, as far as it can be seen: an operator without arguments becomes its guess,
/// open ones are closed.
void complete(std::vector<uint8_t>& tokens) {
  int64_t open = 0;
  for (uint8_t token : tokens) {
    if (token >= listops::kMin && token <= listops::kSm) ++open;
    if (token == listops::kClose) --open;
  }
  if (open <= 0) return;
  uint8_t& last = tokens.back();
  if (last >= listops::kMin && last <= listops::kSm) {
    last = static_cast<uint8_t>(listops::kDigit0 + listops::constant_guess(last));
    --open;
  }
  tokens.insert(tokens.end(), static_cast<size_t>(open), listops::kClose);
}

/// Counts what the rungs of the ladder get right, one example at a time.
class LadderCounts {
 public:
  void add(std::span<const uint8_t> tokens, int label) {
    ++examples_;
    ++by_label_[static_cast<size_t>(label)];
    ++by_root_[tokens[0]][static_cast<size_t>(label)];
    for (int depth = 1; depth <= kDeepestRung; ++depth) {
      if (evaluator_.value(tokens, depth) == label) ++right_[static_cast<size_t>(depth)];
    }
  }

  std::vector<Rung> rungs() const {
    std::vector<Rung> rungs = {{"majority class", share(largest(by_label_))}};
    const int64_t root_right =
        std::transform_reduce(by_root_.begin(), by_root_.end(), int64_t{0}, std::plus<>(),
                              [](const Counts& counts) { return largest(counts); });
    rungs.push_back({"root operator", share(root_right)});
    for (int depth = 1; depth <= kDeepestRung; ++depth) {
      rungs.push_back({fmt::format("depth {}", depth), share(right_[static_cast<size_t>(depth)])});
    }
    std::stable_sort(rungs.begin(), rungs.end(),
                     [](const Rung& a, const Rung& b) { return a.value < b.value; });
    return rungs;
  }

 private:
  using Counts = std::array<int64_t, listops::kNumClasses>;
  static int64_t largest(const Counts& counts) {
    return *std::max_element(counts.begin(), counts.end());
  }
  double share(int64_t count) const {
    return static_cast<double>(count) / static_cast<double>(examples_);
  }

  listops::Evaluator evaluator_;
  int64_t examples_ = 0;
  Counts by_label_{};
  std::array<Counts, listops::kVocabSize> by_root_{};  ///< by first token
  std::array<int64_t, kDeepestRung + 1> right_{};      ///< by depth
};

class ListopsTask final : public Task {
 public:
  explicit ListopsTask(const DataConfig& config)
      : dir_(config.dir),
        skip_bad_rows_(config.skip_bad_rows),
        info_{.name = "listops",
              .fields = {.label = LabelKind::kClass},
              .vocab_size = listops::kVocabSize,
              .num_classes = listops::kNumClasses,
              .max_length = config.max_length,
              .metrics = {kAccuracy}} {}

  const TaskInfo& info() const override { return info_; }

  std::unique_ptr<Dataset> open(Split split) const override {
    try {
      return std::make_unique<ListopsDataset>(listops::read_published_file(
          listops::file_of(dir_, split), info_.max_length, skip_bad_rows_));
    } catch (const UnreadableFile& e) {
      if (e.reason() != ENOENT) throw;
      throw DataError(fmt::format("{}; {}", e.what(), advice()));
    }
  }

  std::vector<std::string> files(Split split) const override {
    return {listops::file_of(dir_, split)};
  }

  std::vector<Rung> ladder(const Dataset& dataset) const override {
    if (dataset.size() == 0) return {};
    LadderCounts counts;
    std::vector<int32_t> ids;
    std::vector<uint8_t> tokens;
    for (int64_t i = 0; i < dataset.size(); ++i) {
      int32_t label = 0;
      ids.resize(static_cast<size_t>(dataset.length({.example = i}, 0)));
      dataset.get({.example = i}, 0, {.ids = ids, .labels = {&label, 1}});
      tokens.resize(ids.size());
      std::transform(ids.begin(), ids.end(), tokens.begin(),
                     [](int32_t id) { return static_cast<uint8_t>(id); });
      complete(tokens);
      counts.add(tokens, label);
    }
    return counts.rungs();
  }

 private:
  /// What to do about missing files: nothing that touches the ones that are there.
  std::string advice() const {
    std::vector<std::string_view> missing;
    for (Split split : {Split::kTrain, Split::kValidation, Split::kTest}) {
      if (!std::filesystem::exists(listops::file_of(dir_, split)))
        missing.push_back(split_name(split));
    }
    if (missing.size() == 3) {
      return fmt::format(
          "`stipple data listops --out {}` makes the data, or let data.dir name the folder of the "
          "published files",
          dir_);
    }
    return fmt::format(
        "`stipple data listops --out {} --splits {}` makes what is missing and leaves the other "
        "files alone (add the --seed, sizes and lengths that they were made with)",
        dir_, fmt::join(missing, ","));
  }

  std::string dir_;
  bool skip_bad_rows_;
  TaskInfo info_;
};

}  // namespace

std::unique_ptr<Task> tasks::make_listops(const DataConfig& config, uint64_t) {
  return std::make_unique<ListopsTask>(config);
}

}  // namespace stipple::data
