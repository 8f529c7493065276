// SPDX-License-Identifier: Apache-2.0
#include "data/listops.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <numeric>

#include "core/error.h"
#include "data/listops/source.h"
#include "data/tasks/tasks.h"

namespace stipple::data {
namespace {

constexpr std::string_view kHeader = "Source\tTarget";

/// Published lines hold 6.4 bytes per token: room for the tokens of a file without growing on the
/// way.
constexpr size_t kBytesPerToken = 6;

constexpr int kDeepestRung = 5;

/// A file's bytes, mapped for one pass from start to end.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) fail(path, errno);
    struct stat status {};
    int reason = ::fstat(descriptor, &status) == 0 ? 0 : errno;
    if (reason == 0 && !S_ISREG(status.st_mode)) reason = EISDIR;
    if (reason == 0 && status.st_size > 0) {
      bytes_ = static_cast<size_t>(status.st_size);
      data_ = ::mmap(nullptr, bytes_, PROT_READ, MAP_PRIVATE, descriptor, 0);
      if (data_ == MAP_FAILED) reason = errno;
    }
    ::close(descriptor);
    if (reason != 0) fail(path, reason);
    if (bytes_ > 0) ::madvise(data_, bytes_, MADV_SEQUENTIAL);
  }
  ~MappedFile() {
    if (bytes_ > 0) ::munmap(data_, bytes_);
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::string_view text() const { return {static_cast<const char*>(data_), bytes_}; }

 private:
  [[noreturn]] static void fail(const std::string& path, int reason) {
    const std::string folder = std::filesystem::path(path).parent_path();
    throw DataError(
        fmt::format("cannot read {}: {}; run `stipple data listops --out {}` to make it", path,
                    std::strerror(reason), folder.empty() ? "." : folder));
  }

  void* data_ = nullptr;
  size_t bytes_ = 0;
};

/// Takes the first line off `text`, without its LF or CR LF.
std::string_view take_line(std::string_view& text) {
  const size_t end = text.find('\n');
  std::string_view line = text.substr(0, end);
  text.remove_prefix(end == text.npos ? text.size() : end + 1);
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  return line;
}

class ListopsDataset final : public Dataset {
 public:
  ListopsDataset(const std::string& path, int64_t max_length) {
    const MappedFile file(path);
    std::string_view text = file.text();
    tokens_.reserve(text.size() / kBytesPerToken);
    int64_t line_number = 1;
    try {
      read_header(text);
      while (!text.empty()) {
        ++line_number;
        read_line(take_line(text), static_cast<size_t>(max_length));
      }
    } catch (const DataError& error) {
      throw DataError(fmt::format("{}:{}: {}", path, line_number, error.what()));
    }
    hash();
  }

  int64_t size() const override { return static_cast<int64_t>(labels_.size()); }

  int64_t length(int64_t i) const override {
    return offsets_[static_cast<size_t>(i) + 1] - offsets_[static_cast<size_t>(i)];
  }

  void get(int64_t i, std::span<int32_t> ids, std::span<int32_t> labels) const override {
    STIPPLE_CHECK(
        i >= 0 && i < size() && static_cast<int64_t>(ids.size()) >= length(i) && !labels.empty(),
        "listops: no room for example ", i, " of ", size());
    const auto begin = tokens_.begin() + offsets_[static_cast<size_t>(i)];
    std::copy(begin, begin + length(i), ids.begin());
    labels[0] = labels_[static_cast<size_t>(i)];
  }

  uint64_t fingerprint() const override { return fingerprint_; }

 private:
  static void read_header(std::string_view& text) {
    if (text.empty()) throw DataError("the file is empty");
    const std::string_view line = take_line(text);
    if (line != kHeader) {
      throw DataError(fmt::format("the header line Source<TAB>Target is missing; found {}",
                                  listops::quoted(line)));
    }
  }

  void read_line(std::string_view line, size_t max_length) {
    if (line.empty()) throw DataError("the line is empty");
    const size_t tab = line.find('\t');
    if (tab == line.npos) {
      throw DataError(
          fmt::format("no tab between expression and label in {}", listops::quoted(line)));
    }
    const size_t begin = tokens_.size();
    if (const auto bad = listops::append_tokens(line.substr(0, tab), tokens_)) {
      const bool has_nul = bad->word.find('\0') != bad->word.npos;
      throw DataError(fmt::format("{} {} at byte {} of the line",
                                  has_nul ? "NUL byte, the file is damaged:" : "unknown token",
                                  listops::quoted(bad->word), bad->position + 1));
    }
    if (tokens_.size() == begin) throw DataError("there is no expression before the tab");
    tokens_.resize(std::min(tokens_.size(), begin + max_length));
    offsets_.push_back(static_cast<int64_t>(tokens_.size()));
    labels_.push_back(read_label(line.substr(tab + 1)));
  }

  static uint8_t read_label(std::string_view word) {
    if (word.size() != 1 || word[0] < '0' || word[0] > '9') {
      throw DataError(fmt::format("label {} is not one of 0 to 9", listops::quoted(word)));
    }
    return static_cast<uint8_t>(word[0] - '0');
  }

  void hash() {
    uint64_t h = XXH3_64bits(tokens_.data(), tokens_.size());
    h = XXH3_64bits_withSeed(offsets_.data(), offsets_.size() * sizeof(int64_t), h);
    fingerprint_ = XXH3_64bits_withSeed(labels_.data(), labels_.size(), h);
  }

  std::vector<uint8_t> tokens_;         ///< of all examples, one after the other
  std::vector<int64_t> offsets_ = {0};  ///< example i is [offsets_[i], offsets_[i + 1])
  std::vector<uint8_t> labels_;
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
      if (listops::evaluate(tokens, depth) == label) ++right_[static_cast<size_t>(depth)];
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

  int64_t examples_ = 0;
  Counts by_label_{};
  std::array<Counts, listops::kVocabSize> by_root_{};  ///< by first token
  std::array<int64_t, kDeepestRung + 1> right_{};      ///< by depth
};

class ListopsTask final : public Task {
 public:
  explicit ListopsTask(const DataConfig& config)
      : dir_(config.dir),
        info_{.name = "listops",
              .head = HeadKind::kSequence,
              .vocab_size = listops::kVocabSize,
              .num_classes = listops::kNumClasses,
              .max_length = config.max_length,
              .metrics = {kAccuracy}} {}

  const TaskInfo& info() const override { return info_; }

  std::unique_ptr<Dataset> open(Split split) const override {
    const std::filesystem::path path =
        std::filesystem::path(dir_) / fmt::format("basic_{}.tsv", split_name(split));
    return std::make_unique<ListopsDataset>(path, info_.max_length);
  }

  std::vector<Rung> ladder(const Dataset& dataset) const override {
    if (dataset.size() == 0) return {};
    LadderCounts counts;
    std::vector<int32_t> ids;
    std::vector<uint8_t> tokens;
    for (int64_t i = 0; i < dataset.size(); ++i) {
      int32_t label = 0;
      ids.resize(static_cast<size_t>(dataset.length(i)));
      dataset.get(i, ids, {&label, 1});
      tokens.resize(ids.size());
      std::transform(ids.begin(), ids.end(), tokens.begin(),
                     [](int32_t id) { return static_cast<uint8_t>(id); });
      complete(tokens);
      try {
        counts.add(tokens, label);
      } catch (const Error& error) {
        throw DataError(fmt::format("example {} (from 0): {}", i, error.what()));
      }
    }
    return counts.rungs();
  }

 private:
  std::string dir_;
  TaskInfo info_;
};

}  // namespace

std::unique_ptr<Task> tasks::make_listops(const DataConfig& config, uint64_t) {
  return std::make_unique<ListopsTask>(config);
}

}  // namespace stipple::data
