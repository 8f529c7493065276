// SPDX-License-Identifier: Apache-2.0
#include <xxhash.h>

#include <algorithm>
#include <array>

#include "core/error.h"
#include "data/random_stream.h"
#include "data/tasks/tasks.h"

namespace stipple::data {
namespace {

/// Stands for endless: no run comes to its end, and positions still fit every counter.
constexpr int64_t kEndless = int64_t{1} << 40;

/// The ladder of an endless collection is that of its first examples.
constexpr int64_t kLadderExamples = 4096;

class RepeatedTokenDataset final : public Dataset {
 public:
  RepeatedTokenDataset(int64_t sequence, int64_t size, uint64_t seed, Split split)
      : sequence_(sequence), size_(size), seed_(seed), stream_(static_cast<int>(split)) {}

  int64_t size() const override { return size_; }
  int64_t length(Draw, int64_t) const override { return sequence_; }

  int64_t num_labels(Draw) const override { return sequence_; }

  void get(Draw draw, int64_t, const ExampleSpans& to) const override {
    const int64_t i = draw.example;
    const auto n = static_cast<size_t>(sequence_);
    STIPPLE_CHECK(i >= 0 && i < size_ && to.ids.size() >= n && to.labels.size() >= n,
                  "repeated_token: no room for example ", i, " of ", size_);
    RandomStream random(seed_, static_cast<uint64_t>(i), stream_);
    for (size_t k = 0; k < n; ++k) {
      to.ids[k] = 1 + static_cast<int32_t>(random.below(static_cast<uint32_t>(n)));
    }
    label(to.ids.first(n), to.labels.first(n));
  }

  uint64_t fingerprint() const override {
    const std::array<uint64_t, 4> definition = {static_cast<uint64_t>(sequence_),
                                                static_cast<uint64_t>(size_), seed_,
                                                static_cast<uint64_t>(stream_)};
    return XXH3_64bits(definition.data(), sizeof(definition));
  }

 private:
  // There are as many labels as possible tokens, so the labels' low bits can count the tokens while
  // their top bit collects the answer: no memory beside the caller's.
  static void label(std::span<const int32_t> ids, std::span<int32_t> labels) {
    constexpr int kAnswerBit = 30;
    constexpr int32_t kCountMask = (int32_t{1} << kAnswerBit) - 1;
    std::fill(labels.begin(), labels.end(), 0);
    for (int32_t id : ids) ++labels[static_cast<size_t>(id - 1)];
    for (size_t k = 0; k < ids.size(); ++k) {
      const int32_t count = labels[static_cast<size_t>(ids[k] - 1)] & kCountMask;
      if (count >= 2) labels[k] |= int32_t{1} << kAnswerBit;
    }
    for (int32_t& x : labels) x >>= kAnswerBit;
  }

  int64_t sequence_;
  int64_t size_;
  uint64_t seed_;
  int stream_;
};

class RepeatedTokenTask final : public Task {
 public:
  RepeatedTokenTask(const RepeatedTokenConfig& config, uint64_t seed)
      : config_(config),
        seed_(seed),
        info_{.name = "repeated_token",
              .fields = {.label = LabelKind::kTokenClass},
              .vocab_size = config.sequence + 1,
              .num_classes = 2,
              .max_length = config.sequence,
              .metrics = {kAccuracy}} {}

  const TaskInfo& info() const override { return info_; }

  std::unique_ptr<Dataset> open(Split split) const override {
    int64_t size = config_.eval_examples;
    if (split == Split::kTrain) {
      size = config_.train_examples == 0 ? kEndless : config_.train_examples;
    }
    return std::make_unique<RepeatedTokenDataset>(config_.sequence, size, seed_, split);
  }

  std::vector<Rung> ladder(const Dataset& dataset) const override {
    const int64_t examples = std::min(dataset.size(), kLadderExamples);
    if (examples == 0) return {};
    std::vector<int32_t> ids(static_cast<size_t>(config_.sequence));
    std::vector<int32_t> labels(ids.size());
    int64_t repeated = 0;
    for (int64_t i = 0; i < examples; ++i) {
      dataset.get({.example = i}, 0, {.ids = ids, .labels = labels});
      repeated += std::count(labels.begin(), labels.end(), 1);
    }
    const double tokens = static_cast<double>(examples * config_.sequence);
    return {{"always repeated", static_cast<double>(repeated) / tokens}};
  }

 private:
  RepeatedTokenConfig config_;
  uint64_t seed_;
  TaskInfo info_;
};

}  // namespace

void RepeatedTokenConfig::describe(ConfigVisitor& visitor) {
  visitor.field("sequence", sequence,
                {.doc = "Length of a sequence, and number of different tokens it is drawn from.",
                 .unit = "tokens",
                 .min = 1,
                 .max = 65536});
  visitor.field("train_examples", train_examples,
                {.doc = "Training sequences; 0: endless, no step sees an old one.",
                 .unit = "examples",
                 .min = 0,
                 .max = 1e9});
  visitor.field("eval_examples", eval_examples,
                {.doc = "Sequences for validation, and as many others for the test.",
                 .unit = "examples",
                 .min = 1,
                 .max = 1e9});
}

std::unique_ptr<Task> tasks::make_repeated_token(const DataConfig& config, uint64_t seed) {
  return std::make_unique<RepeatedTokenTask>(config.repeated_token, seed);
}

}  // namespace stipple::data
