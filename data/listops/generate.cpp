// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <memory>
#include <numeric>
#include <unordered_set>

#include "core/device.h"
#include "core/error.h"
#include "core/stream.h"
#include "data/listops.h"
#include "data/listops/evaluator.h"
#include "data/listops/source.h"
#include "data/output_file.h"
#include "data/random_stream.h"

namespace stipple::data::listops {
namespace {

// A round is what the workers make before the calling thread writes. Small, because what it makes
// beyond the last example is wasted.
constexpr int64_t kChunkCandidates = 256;
constexpr int64_t kChunksPerThread = 8;

// The default window accepts every twelfth candidate. One that accepts none of so many in a row has
// a rate below 10^-5 (else the chance of this is e^-42), too rare to make a data set of.
constexpr uint64_t kMostFruitless = uint64_t{1} << 22;

void check(const GeneratorOptions& o) {
  STIPPLE_CHECK_AS(ConfigError, o.train >= 0 && o.val >= 0 && o.test >= 0,
                   "listops: the numbers of examples cannot be negative");
  STIPPLE_CHECK_AS(ConfigError, o.max_depth >= 1, "listops: max_depth must be at least 1");
  STIPPLE_CHECK_AS(ConfigError, o.max_arguments >= 2, "listops: max_arguments must be at least 2");
  STIPPLE_CHECK_AS(ConfigError, o.operator_probability >= 0 && o.operator_probability <= 1,
                   "listops: operator_probability must be between 0 and 1");
  STIPPLE_CHECK_AS(ConfigError, o.threads >= 1, "listops: threads must be at least 1");
  STIPPLE_CHECK_AS(ConfigError, !o.splits.empty(), "listops: there is no split to write");
  STIPPLE_CHECK_AS(ConfigError, o.min_length >= 0 && o.max_length - o.min_length >= 2,
                   "listops: no length lies between ", o.min_length, " and ", o.max_length,
                   " (both excluded); widen the window");
}

/// Grows trees, reusing its memory.
class Tree {
 public:
  explicit Tree(const GeneratorOptions& options)
      : options_(options),
        operator_threshold_(
            static_cast<uint64_t>(std::llround(options.operator_probability * 0x1.0p32))) {}

  /// Whether candidate c falls into the window; then tokens() is the tree.
  bool grow(uint64_t c) {
    tokens_.clear();
    missing_.clear();
    RandomStream random(options_.seed, c, 0);
    // The length that the tree has at least: tokens so far, arguments still to come and brackets
    // still to close. Exact once nothing is missing, and it never falls, so a tree is given up as
    // soon as it has become too long.
    int64_t length = 1;
    do {
      if (is_operator(random)) {
        const uint32_t arguments =
            2 + random.below(static_cast<uint32_t>(options_.max_arguments - 1));
        tokens_.push_back(static_cast<uint8_t>(kMin + random.below(4)));
        length += arguments + 1;
        if (length >= options_.max_length) return false;
        missing_.push_back(arguments);
      } else {
        tokens_.push_back(static_cast<uint8_t>(kDigit0 + random.below(10)));
        close_complete();
      }
    } while (!missing_.empty());
    return length > options_.min_length && length < options_.max_length;
  }

  const std::vector<uint8_t>& tokens() const { return tokens_; }

 private:
  bool is_operator(RandomStream& random) const {
    const bool is_last_depth = static_cast<int>(missing_.size()) + 1 >= options_.max_depth;
    return !is_last_depth && random.next() < operator_threshold_;
  }

  /// An argument is complete; so are the operators of which it was the last.
  void close_complete() {
    while (!missing_.empty() && --missing_.back() == 0) {
      tokens_.push_back(kClose);
      missing_.pop_back();
    }
  }

  const GeneratorOptions& options_;
  uint64_t operator_threshold_;
  std::vector<uint8_t> tokens_;
  std::vector<uint32_t> missing_;  ///< arguments still to come, of each open operator
};

struct Hash {
  uint64_t low = 0;
  uint64_t high = 0;
  bool operator==(const Hash&) const = default;
};
struct HashOfHash {
  size_t operator()(const Hash& hash) const { return hash.low; }
};
// The hash stands for the tree: even among 10^9 trees two different ones share 128 bits with
// probability 10^-21, and then one of them is merely left out.
using SeenTrees = std::unordered_set<Hash, HashOfHash>;

/// The accepted trees of consecutive candidates, as lines of the file.
struct Chunk {
  struct Line {
    Hash hash;
    uint64_t candidate = 0;
    size_t end = 0;  ///< in `text`
  };
  std::vector<Line> lines;
  std::string text;
};

void fill(const GeneratorOptions& options, uint64_t first, Chunk& chunk) {
  chunk.lines.clear();
  chunk.text.clear();
  Tree tree(options);
  Evaluator evaluator;
  for (uint64_t c = first; c < first + kChunkCandidates; ++c) {
    if (!tree.grow(c)) continue;
    const XXH128_hash_t hash = XXH3_128bits(tree.tokens().data(), tree.tokens().size());
    append_source(tree.tokens(), chunk.text);
    chunk.text += '\t';
    chunk.text += static_cast<char>('0' + evaluator.value(tree.tokens()));
    chunk.text += "\r\n";
    chunk.lines.push_back({{hash.low64, hash.high64}, c, chunk.text.size()});
  }
}

void check_free(const std::string& dir, const GeneratorOptions& options) {
  if (options.replace) return;
  for (Split split : options.splits) {
    const std::string path = file_of(dir, split);
    STIPPLE_CHECK_AS(DataError, !std::filesystem::exists(path), path, " exists already");
  }
}

/// The files, filled one after the other; trees of a split that is not written are counted only.
class Splits {
 public:
  Splits(const std::string& dir, const GeneratorOptions& options)
      : sizes_{options.train, options.val, options.test} {
    for (size_t i = 0; i < sizes_.size(); ++i) {
      const auto split = static_cast<Split>(i);
      if (std::count(options.splits.begin(), options.splits.end(), split) == 0) continue;
      const std::string path = file_of(dir, split);
      files_[i] = std::make_unique<OutputFile>(path);
      files_[i]->append("Source\tTarget\r\n");
      wanted_ = i + 1;
    }
    skip_full();
  }

  bool is_full() const { return current_ >= wanted_; }
  /// Trees to be found, up to the last one of a file that is written.
  int64_t total() const {
    return std::accumulate(sizes_.begin(), sizes_.begin() + wanted_, int64_t{0});
  }

  void append(std::string_view line) {
    if (files_[current_]) files_[current_]->append(line);
    ++written_;
    skip_full();
  }

  /// Names change only when all files are safe on the disk: a failure leaves a folder as it was.
  void finish() {
    for (auto& file : files_) {
      if (file) file->finish();
    }
  }
  void publish() {
    for (auto& file : files_) {
      if (file) file->publish();
    }
  }

 private:
  void skip_full() {
    while (!is_full() && written_ == sizes_[current_]) {
      written_ = 0;
      ++current_;
    }
  }

  std::array<int64_t, 3> sizes_;                      ///< in the order of Split
  std::array<std::unique_ptr<OutputFile>, 3> files_;  ///< null: not written
  size_t wanted_ = 0;                                 ///< one past the last file that is written
  size_t current_ = 0;
  int64_t written_ = 0;  ///< to the current file
};

void create_folder(const std::string& dir) {
  std::error_code reason;
  std::filesystem::create_directories(dir, reason);
  if (reason) {
    throw DataError(fmt::format("cannot create folder {}: {}", dir, reason.message()));
  }
}

void check_fruitful(const GeneratorOptions& o, uint64_t fruitless, int64_t done, int64_t total) {
  STIPPLE_CHECK_AS(ConfigError, fruitless < kMostFruitless, "listops: none of the last ", fruitless,
                   " candidates is a new tree with a length between ", o.min_length, " and ",
                   o.max_length, " (both excluded); ", done, " of ", total,
                   " examples were found; widen the window or ask for fewer");
}

}  // namespace

std::string file_of(const std::string& dir, Split split) {
  return std::filesystem::path(dir) / fmt::format("basic_{}.tsv", split_name(split));
}

std::vector<uint8_t> candidate(const GeneratorOptions& options, uint64_t c) {
  check(options);
  Tree tree(options);
  return tree.grow(c) ? tree.tokens() : std::vector<uint8_t>();
}

void generate(const std::string& dir, const GeneratorOptions& options,
              const std::function<void(int64_t, int64_t)>& progress) {
  check(options);
  check_free(dir, options);
  create_folder(dir);
  Splits splits(dir, options);
  const Stream workers(kCpuDevice, {.threads = options.threads});
  std::vector<Chunk> chunks(static_cast<size_t>(kChunksPerThread * options.threads));
  SeenTrees seen;
  const int64_t total = splits.total();
  uint64_t after_last_accepted = 0;
  for (uint64_t first = 0; !splits.is_full(); first += chunks.size() * kChunkCandidates) {
    const int64_t done = static_cast<int64_t>(seen.size());
    check_fruitful(options, first - after_last_accepted, done, total);
    if (progress) progress(done, total);
    workers.parallel_for(static_cast<int64_t>(chunks.size()), [&](int64_t i, int) {
      fill(options, first + static_cast<uint64_t>(i * kChunkCandidates),
           chunks[static_cast<size_t>(i)]);
    });
    for (const Chunk& chunk : chunks) {
      size_t begin = 0;
      for (const Chunk::Line& line : chunk.lines) {
        if (!splits.is_full() && seen.insert(line.hash).second) {
          splits.append(std::string_view(chunk.text).substr(begin, line.end - begin));
          after_last_accepted = line.candidate + 1;
        }
        begin = line.end;
      }
    }
  }
  splits.finish();
  check_free(dir, options);  // another generator may have been faster
  splits.publish();
  if (progress) progress(total, total);
}

}  // namespace stipple::data::listops
