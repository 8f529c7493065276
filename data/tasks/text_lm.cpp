// SPDX-License-Identifier: Apache-2.0
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"
#include "data/tasks/tasks.h"
#include "data/text/corpus.h"

namespace stipple::data {
namespace {

using text::TokenStream;

/// Every token of the labels is told from the tokens before it in its window: a window of n tokens
/// shows tokens [begin, begin + n) and asks for tokens [begin + 1, begin + n + 1). All windows
/// together ask for each byte once.
struct Window {
  int64_t begin;
  int64_t size;
};

/// Cuts labels, which are all tokens of `range` but its first, into windows of at most `longest`.
void cut(const Range& range, int64_t longest, std::vector<Window>& windows) {
  for (int64_t begin = range.begin; begin + 1 < range.end; begin += longest)
    windows.push_back({begin, std::min(longest, range.end - 1 - begin)});
}

class TextDataset final : public Dataset {
 public:
  TextDataset(text::Part part, int64_t longest, bool pack)
      : stream_(std::move(part.stream)), remarks_(std::move(part.remarks)) {
    if (pack) {
      cut({0, stream_.size()}, longest, windows_);
      return;
    }
    for (int64_t i = 0; i < stream_.num_documents(); ++i)
      cut(stream_.document(i), longest, windows_);
  }

  int64_t size() const override { return static_cast<int64_t>(windows_.size()); }
  int64_t length(Draw draw, int64_t) const override { return window(draw.example).size; }
  int64_t num_labels(Draw draw) const override { return window(draw.example).size; }

  void get(Draw draw, int64_t, const ExampleSpans& to) const override {
    const int64_t i = draw.example;
    STIPPLE_CHECK(i >= 0 && i < size(), "text_lm: no window ", i, " of ", size());
    const Window& w = window(i);
    const auto n = static_cast<size_t>(w.size);
    STIPPLE_CHECK(to.ids.size() >= n && to.labels.size() >= n, "text_lm: no room for window ", i);
    stream_.copy(w.begin, to.ids.first(n));
    std::copy_n(to.ids.begin() + 1, n - 1, to.labels.begin());
    stream_.copy(w.begin + w.size, to.labels.subspan(n - 1, 1));
  }

  uint64_t fingerprint() const override {
    return XXH3_64bits_withSeed(windows_.data(), windows_.size() * sizeof(Window),
                                stream_.fingerprint());
  }

  Intake intake() const override {
    Intake intake;
    intake.examples = size();
    intake.tokens = stream_.num_bytes();
    intake.remarks = remarks_;
    return intake;
  }

 private:
  const Window& window(int64_t i) const { return windows_[static_cast<size_t>(i)]; }

  TokenStream stream_;
  std::vector<std::string> remarks_;
  std::vector<Window> windows_;
};

/// Bits of -p log2 p, p = count / total.
double surprise(int64_t count, int64_t total) {
  if (count == 0) return 0;
  const double p = static_cast<double>(count) / static_cast<double>(total);
  return -p * std::log2(p);
}

/// How often each token follows each other one.
class PairCounts {
 public:
  void add(std::span<const int32_t> ids, std::span<const int32_t> labels) {
    for (size_t k = 0; k < ids.size(); ++k) {
      ++pairs_[static_cast<size_t>(ids[k])][static_cast<size_t>(labels[k])];
      ++total_;
    }
  }
  /// Entropy of a token.
  double bits() const {
    Row sums{};
    for (const Row& row : pairs_) {
      for (size_t c = 0; c < row.size(); ++c) sums[c] += row[c];
    }
    double bits = 0;
    for (const int64_t count : sums) bits += surprise(count, total_);
    return bits;
  }
  /// Of a token, given the one before it.
  double bits_after_one() const {
    double bits = 0;
    for (const Row& row : pairs_) {
      int64_t sum = 0;
      for (const int64_t count : row) sum += count;
      for (const int64_t count : row) bits += surprise(count, total_);
      bits -= surprise(sum, total_);
    }
    return bits;
  }

 private:
  using Row = std::array<int64_t, text::kVocabulary>;
  std::vector<Row> pairs_ = std::vector<Row>(text::kVocabulary);
  int64_t total_ = 0;
};

class TextTask final : public Task {
 public:
  explicit TextTask(const DataConfig& config)
      : config_(config),
        info_{.name = "text_lm",
              .fields = {.label = LabelKind::kNextToken},
              .vocab_size = text::kVocabulary,
              .num_classes = text::kVocabulary,
              .max_length = config.max_length,
              .writes = Writes::kText,
              .metrics = {kBitsPerByte, kPerplexity, kAccuracy},
              .profiles = {kBitsPerByteByPlace}} {}

  const TaskInfo& info() const override { return info_; }

  std::unique_ptr<Dataset> open(Split split) const override {
    return std::make_unique<TextDataset>(text::read_part(config_, split), config_.max_length,
                                         config_.text_lm.pack);
  }

  std::vector<std::string> files(Split) const override {
    try {
      return text::files_of(config_);
    } catch (const DataError&) {
      return {config_.dir};
    }
  }

  std::vector<int32_t> tokens_of(std::string_view prompt) const override {
    std::vector<int32_t> tokens = {text::kSeparator};
    for (const char c : prompt) tokens.push_back(static_cast<uint8_t>(c));
    return tokens;
  }

  /// A separator between documents is a blank line.
  std::string text_of(std::span<const int32_t> tokens) const override {
    std::string written;
    for (const int32_t token : tokens) {
      if (token != text::kSeparator) {
        written += static_cast<char>(token);
      } else if (!written.empty()) {
        written += "\n\n";
      }
    }
    return written;
  }

  /// What is known without learning: how often bytes occur in this very text, by themselves and
  /// after each other byte.
  std::vector<Rung> ladder(const Dataset& dataset) const override {
    PairCounts counts;
    std::vector<int32_t> ids(static_cast<size_t>(config_.max_length)), labels(ids.size());
    for (int64_t i = 0; i < dataset.size(); ++i) {
      dataset.get({.example = i}, 0, {.ids = ids, .labels = labels});
      const auto n = static_cast<size_t>(dataset.length({.example = i}, 0));
      counts.add(std::span(ids).first(n), std::span(labels).first(n));
    }
    std::vector<Rung> rungs = {{"pairs of bytes", counts.bits_after_one()},
                               {"single bytes", counts.bits()},
                               {"no knowledge", 8.0}};
    std::ranges::stable_sort(rungs, {}, &Rung::value);
    return rungs;
  }

 private:
  DataConfig config_;
  TaskInfo info_;
};

}  // namespace

void TextLmConfig::describe(ConfigVisitor& visitor) {
  visitor.choice("documents", documents, {"file", "blank_line"},
                 {.doc = "What a document is: a file, or what stands between blank lines of one. A "
                         "window never sees another document, unless `pack`."});
  visitor.field("pack", pack,
                {.doc = "Documents follow each other with a separator between them, and windows of "
                        "data.max_length are cut without regard to documents: no padding, where "
                        "documents are short. The separator counts as a byte that is to be told."});
}

std::unique_ptr<Task> tasks::make_text_lm(const DataConfig& config, uint64_t) {
  return std::make_unique<TextTask>(config);
}

}  // namespace stipple::data
