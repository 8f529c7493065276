// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>
#include <xxhash.h>

#include <array>
#include <cmath>
#include <filesystem>
#include <memory>
#include <unordered_set>

#include "core/device.h"
#include "core/error.h"
#include "core/stream.h"
#include "data/dataset.h"
#include "data/listops.h"
#include "data/listops/evaluator.h"
#include "data/listops/output_file.h"
#include "data/listops/source.h"
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

/// The three files, filled one after the other.
class Splits {
 public:
  Splits(const std::string& dir, const GeneratorOptions& options)
      : sizes_{options.train, options.val, options.test} {
    const std::filesystem::path folder(dir);
    for (Split split : {Split::kTrain, Split::kValidation, Split::kTest}) {
      const std::string path = folder / fmt::format("basic_{}.tsv", split_name(split));
      // The process number keeps two generators that share a folder apart.
      files_.push_back(
          std::make_unique<OutputFile>(fmt::format("{}.partial.{}", path, ::getpid()), path));
      files_.back()->append("Source\tTarget\r\n");
    }
    skip_full();
  }

  bool is_full() const { return current_ == sizes_.size(); }

  void append(std::string_view line) {
    files_[current_]->append(line);
    ++written_;
    skip_full();
  }

  /// Names change only when all three are safe on the disk: a failure leaves a folder as it was.
  void publish() {
    for (auto& file : files_) file->finish();
    for (auto& file : files_) file->publish();
  }

 private:
  void skip_full() {
    while (!is_full() && written_ == sizes_[current_]) {
      written_ = 0;
      ++current_;
    }
  }

  std::array<int64_t, 3> sizes_;
  std::vector<std::unique_ptr<OutputFile>> files_;
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

/// A rename is on the disk only when its folder is.
void sync_folder(const std::string& dir) {
  const int descriptor = ::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  // Some file systems refuse to sync a folder; the files themselves are safe by then.
  (void)::fsync(descriptor);
  ::close(descriptor);
}

void check_fruitful(const GeneratorOptions& o, uint64_t fruitless, int64_t done, int64_t total) {
  STIPPLE_CHECK_AS(ConfigError, fruitless < kMostFruitless, "listops: none of the last ", fruitless,
                   " candidates is a new tree with a length between ", o.min_length, " and ",
                   o.max_length, " (both excluded); ", done, " of ", total,
                   " examples were found; widen the window or ask for fewer");
}

}  // namespace

std::vector<uint8_t> candidate(const GeneratorOptions& options, uint64_t c) {
  check(options);
  Tree tree(options);
  return tree.grow(c) ? tree.tokens() : std::vector<uint8_t>();
}

void generate(const std::string& dir, const GeneratorOptions& options,
              const std::function<void(int64_t, int64_t)>& progress) {
  check(options);
  create_folder(dir);
  Splits splits(dir, options);
  const Stream workers(kCpuDevice, {.threads = options.threads});
  std::vector<Chunk> chunks(static_cast<size_t>(kChunksPerThread * options.threads));
  SeenTrees seen;
  const int64_t total = options.train + options.val + options.test;
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
  splits.publish();
  sync_folder(dir);
  if (progress) progress(total, total);
}

}  // namespace stipple::data::listops
