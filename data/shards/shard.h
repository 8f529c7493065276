// SPDX-License-Identifier: Apache-2.0
// Tokens of a corpus as files: read where they lie, in any order, by any number of threads.
//
//   const Shards corpus({{"corpus/wiki", 0.7}, {"corpus/books", 0.3}});
//   corpus.require_vocabulary(vocabulary);
//   corpus[0].copy(begin, ids);
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/range.h"
#include "data/mapped_file.h"
#include "data/shards/index_file.h"
#include "data/shards/meta_file.h"

namespace stipple::data::shards {

std::string bin_of(const std::string& prefix);
std::string idx_of(const std::string& prefix);
std::string meta_of(const std::string& prefix);

class Shard {
 public:
  /// `name`: a prefix with PREFIX.bin and PREFIX.idx (Megatron-LM's) and, if there is one,
  /// PREFIX.meta.json; or a file NAME.bin of llm.c, which its header tells, or of nanoGPT, which has
  /// none: 16-bit tokens without documents, one sequence. DataError for what is neither, is cut
  /// short or damaged, or has no tokens. Tokens are not read.
  explicit Shard(const std::string& name);

  const std::string& name() const { return name_; }
  int64_t num_tokens() const { return index_.num_tokens(); }
  int64_t num_sequences() const { return index_.num_sequences(); }
  int64_t num_documents() const { return index_.num_documents(); }
  /// Tokens of a sequence and of a document, in the order of the file.
  Range sequence(int64_t i) const;
  Range document(int64_t i) const;
  const std::optional<Meta>& meta() const { return meta_; }

  /// Tokens [begin, begin + to.size()). O(tokens)
  void copy(int64_t begin, std::span<int32_t> to) const;

  /// DataError if the tokens were made by another vocabulary. A shard without meta.json cannot
  /// tell: then it reads all tokens for one that the vocabulary does not have.
  void require_vocabulary(const wordpiece::Vocabulary&) const;
  /// Of counts, types and hashes that are known: equal for equal corpora. O(1)
  uint64_t fingerprint() const;

  /// Reads everything: DataError names the first block that is not what was written, or the first
  /// token that the vocabulary cannot have. How many blocks were compared; 0 without meta.json.
  int64_t verify() const;

 private:
  /// The first token below 0 or not below `size`; -1 where there is none.
  int64_t first_beyond(int64_t size) const;

  std::string name_;
  std::unique_ptr<MappedFile> bin_;
  size_t header_bytes_ = 0;  ///< of the .bin
  Index index_;
  std::optional<Meta> meta_;
};

/// What a run reads: shards, and how much each of them is to be seen.
struct WeightedShard {
  std::string name;
  double weight = 1;  ///< relative to the others
};

class Shards {
 public:
  /// DataError where there are none, a weight is not positive, or a shard cannot be read.
  explicit Shards(const std::vector<WeightedShard>&);

  int64_t size() const { return static_cast<int64_t>(shards_.size()); }
  const Shard& operator[](int64_t i) const { return shards_[static_cast<size_t>(i)]; }
  double share(int64_t i) const { return shares_[static_cast<size_t>(i)]; }  ///< they sum to 1
  int64_t num_tokens() const;
  void require_vocabulary(const wordpiece::Vocabulary&) const;
  uint64_t fingerprint() const;

 private:
  std::vector<Shard> shards_;
  std::vector<double> shares_;
};

}  // namespace stipple::data::shards
